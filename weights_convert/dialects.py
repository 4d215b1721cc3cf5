"""The dialects: how each library spells the path of a layer.

A dialect says how its library spells each layer of the network, and whose column of the table its arrays follow. Rows
are patterns with named numbers, which `NUMBERS` explains. Patterns are read in both directions, so the inverse of a row
is the row. A further library is a further value here.
"""

from __future__ import annotations

from weights_convert.naming import CANONICAL_LAYERS, Dialect

AS_CANONICAL = {plain: plain for plain in CANONICAL_LAYERS}
BATCH_COUNTER = {r".*\.num_batches_tracked": "PyTorch's counter of training batches; no other framework has it"}
KERAS_STATE = {
    r"optimizer\..*": "the optimizer's state",
    r".*seed_generator.*": "the state of a random number generator",
}
OWN_STATE = {r"optimizer\..*": "the optimizer's state, which load_training reads"}
TRAINING_STATE = {
    r"opt_state\..*": "the optimizer's state",
    r"(step|dynamic_scale\..*)": "the state of training: step, scale of the loss",
}
TRANSFORMERS = {
    "conv1": "{root}embedder.embedder.convolution",
    "bn1": "{root}embedder.embedder.normalization",
    "stage{stage}.{block}.conv{k}": "{root}encoder.stages.{stage0}.layers.{block}.layer.{k0}.convolution",
    "stage{stage}.{block}.bn{k}": "{root}encoder.stages.{stage0}.layers.{block}.layer.{k0}.normalization",
    "stage{stage}.{block}.downsample_conv": "{root}encoder.stages.{stage0}.layers.{block}.shortcut.convolution",
    "stage{stage}.{block}.downsample_bn": "{root}encoder.stages.{stage0}.layers.{block}.shortcut.normalization",
    "fc": "classifier.1",
}
"""As transformers' three ResNets spell it, from `modeling_resnet.py` and, of version 4, its two siblings."""

DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        Dialect(
            "canonical",
            "torch",
            AS_CANONICAL,
            "this project's exchange form; impls.torch's state_dict",
            BATCH_COUNTER | OWN_STATE,
        ),
        Dialect("flax", "flax", AS_CANONICAL, "impls.flax: attribute paths joined by dots"),
        Dialect("keras", "keras", AS_CANONICAL, "impls.keras: attribute paths joined by dots", KERAS_STATE),
        Dialect(
            "torchvision",
            "torch",
            {
                "conv1": "conv1",
                "bn1": "bn1",
                "stage{stage}.{block}.conv{k}": "layer{stage}.{block}.conv{k}",
                "stage{stage}.{block}.bn{k}": "layer{stage}.{block}.bn{k}",
                "stage{stage}.{block}.downsample_conv": "layer{stage}.{block}.downsample.0",
                "stage{stage}.{block}.downsample_bn": "layer{stage}.{block}.downsample.1",
                "fc": "fc",
            },
            "torchvision.models.resnet50 and its many relatives, timm's among them",
            BATCH_COUNTER,
            "v1.5",
            bias_free=True,
        ),
        Dialect(
            "transformers",
            "torch",
            TRANSFORMERS,
            "transformers' ResNetForImageClassification, and ResNetModel",
            BATCH_COUNTER,
            "v1.5",
            root=("resnet.", ""),
            bias_free=True,
        ),
        Dialect(
            "transformers-flax",
            "flax",
            TRANSFORMERS,
            "FlaxResNetForImageClassification and FlaxResNetModel of transformers 4",
            published_variant="v1.5",
            collections=("params.", "batch_stats."),
            root=("resnet.", ""),
            bias_free=True,
        ),
        Dialect(
            "transformers-tf",
            "keras",
            TRANSFORMERS | {"fc": "tf_res_net_for_image_classification.classifier.1"},
            "TFResNetForImageClassification and TFResNetModel of transformers 4",
            published_variant="v1.5",
            root=("tf_res_net_for_image_classification.resnet.", "tf_res_net_model.resnet."),
            bias_free=True,
        ),
        Dialect(
            "keras.applications",
            "keras",
            {
                "conv1": "conv1_conv",
                "bn1": "conv1_bn",
                "stage{stage}.{block}.conv{k}": "conv{stage1}_block{block1}_{k}_conv",
                "stage{stage}.{block}.bn{k}": "conv{stage1}_block{block1}_{k}_bn",
                "stage{stage}.{block}.downsample_conv": "conv{stage1}_block{block1}_0_conv",
                "stage{stage}.{block}.downsample_bn": "conv{stage1}_block{block1}_0_bn",
                "fc": "predictions",
            },
            "keras.applications.ResNet50: layer name, dot, variable name",
            KERAS_STATE,
            published_variant="keras",
        ),
        Dialect(
            "keras-hub",
            "keras",
            {
                "conv1": "conv1_conv",
                "bn1": "conv1_bn",
                "stage{stage}.{block}.conv{k}": "stack{stage0}_block{block}_{k}_conv",
                "stage{stage}.{block}.bn{k}": "stack{stage0}_block{block}_{k}_bn",
                "stage{stage}.{block}.downsample_conv": "stack{stage0}_block{block}_0_conv",
                "stage{stage}.{block}.downsample_bn": "stack{stage0}_block{block}_0_bn",
                "fc": "predictions",
            },
            "Keras Hub's ResNetBackbone and ResNetImageClassifier: layer name, dot, variable name",
            KERAS_STATE,
            published_variant="v1.5",
            bias_free=True,
        ),
        Dialect(
            "flax-linen",
            "flax",
            {
                "conv1": "conv_init",
                "bn1": "bn_init",
                "stage{stage}.{block}.conv{k}": "BottleneckResNetBlock_{flat}.Conv_{k0}",
                "stage{stage}.{block}.bn{k}": "BottleneckResNetBlock_{flat}.BatchNorm_{k0}",
                "stage{stage}.{block}.downsample_conv": "BottleneckResNetBlock_{flat}.conv_proj",
                "stage{stage}.{block}.downsample_bn": "BottleneckResNetBlock_{flat}.norm_proj",
                "fc": "Dense_0",
            },
            "the ImageNet example of Flax, in Linen: its variables `params` and `batch_stats`",
            TRAINING_STATE,
            "flax",
            collections=("params.", "batch_stats."),
            bias_free=True,
        ),
    )
}
"""Every dialect by name."""

ALIASES = {"torch": "canonical", "timm": "torchvision"}
"""Other names: impls.torch is where the canonical form comes from, and timm spells as torchvision does."""


def find_dialect(name: str) -> Dialect:
    """The dialect of that name.

    Raises:
        ValueError: If there is none.
    """
    if (known := DIALECTS.get(ALIASES.get(name, name))) is None:
        raise ValueError(f"there is no dialect {name!r}; the dialects are {', '.join((*DIALECTS, *ALIASES))}")
    return known
