"""Functions that build each library's ResNet-50 from one checkpoint, in the worker that runs it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.models.inputs import CLASSES


def load_named(model: Any, weights: Path, dialect: str) -> Any:
    """Fill a PyTorch model of another library from a checkpoint."""
    import torch

    from weights_convert import load

    arrays = load(weights).to(dialect).arrays
    state = {name: torch.tensor(array) for name, array in arrays.items()}
    report = model.load_state_dict(state, strict=False)  # it has no batch counters; nothing else may be missing
    missing = [name for name in report.missing_keys if not name.endswith("num_batches_tracked")]
    if missing or report.unexpected_keys:
        raise ValueError(f"weights do not fit: missing {missing}, unexpected {report.unexpected_keys}")
    return model


def torch_ours(weights: Path, variant: str, precision: str) -> Any:
    """Our PyTorch model."""
    from impls.torch import resnet50

    return resnet50(variant, weights=weights)


def torchvision_model(weights: Path, variant: str, precision: str) -> Any:
    """The model of torchvision."""
    from torchvision.models import resnet50

    return load_named(resnet50(), weights, "torchvision")


def timm_model(weights: Path, variant: str, precision: str) -> Any:
    """The model of timm."""
    import timm

    return load_named(timm.create_model("resnet50"), weights, "timm")


def transformers_model(weights: Path, variant: str, precision: str) -> Any:
    """The model of transformers, which returns its logits in an object, made to return the logits."""
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    class Logits(torch.nn.Module):
        def __init__(self, model: torch.nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.model(x).logits

    return Logits(load_named(ResNetForImageClassification(ResNetConfig(num_labels=CLASSES)), weights, "transformers"))


def flax_ours(weights: Path, variant: str, precision: str) -> Any:
    """Our Flax model."""
    from impls.flax import resnet50

    return resnet50(variant, weights=weights, compute_dtype="bfloat16" if precision == "bfloat16" else None)


def plain_jax(weights: Path, variant: str, precision: str) -> Any:
    """The arrays of the plain functional network below."""
    import jax.numpy as jnp

    from weights_convert import load

    return {name: jnp.asarray(array) for name, array in load(weights).to("flax").arrays.items()}


def keras_ours(weights: Path, variant: str, precision: str) -> Any:
    """Our Keras model."""
    from impls.keras import resnet50

    return resnet50(variant, weights=weights, compute_dtype="bfloat16" if precision == "bfloat16" else None)


def load_layers(layers: Iterable[Any], weights: Path, dialect: str) -> None:
    """Fill the layers of a Keras model of another library from a checkpoint: all of both."""
    from weights_convert import load

    arrays = dict(load(weights).to(dialect).arrays)
    for layer in layers:
        for variable in layer.variables:
            variable.assign(arrays.pop(f"{layer.name}.{variable.name}"))
    if arrays:
        raise ValueError(f"weights do not fit: no variable for {sorted(arrays)}")


def keras_hub_model(weights: Path, variant: str, precision: str) -> Any:
    """The model of Keras Hub."""
    import keras_hub

    backbone = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 128, 256, 512],
        stackwise_num_blocks=[3, 4, 6, 3],
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="bottleneck_block",
        image_shape=(None, None, 3),
    )
    model = keras_hub.models.ResNetImageClassifier(backbone=backbone, num_classes=CLASSES)
    load_layers([*backbone.layers, model.get_layer("predictions")], weights, "keras-hub")
    return model


def keras_applications_model(weights: Path, variant: str, precision: str) -> Any:
    """The model of keras.applications."""
    import keras

    model = keras.applications.ResNet50(weights=None, classifier_activation=None)
    load_layers(model.layers, weights, "keras.applications")
    return model
