"""Fixtures: the four implementations behind one interface, a small network, and weights that expose errors."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from impls.config import ResNetConfig
from weights_convert import Checkpoint
from weights_convert.dialects import find_dialect
from weights_convert.shapes import expected_shapes


@dataclass(frozen=True)
class Framework:
    """One implementation, seen by tests that hold for all four: images and activations are NCHW arrays."""

    name: str
    channels_last: bool
    dtypes: tuple[str, ...]

    @property
    def implementation(self) -> ModuleType:
        return importlib.import_module(f"impls.{self.name}")

    def build(self, config: ResNetConfig, weights: Checkpoint | None = None, **options: Any) -> Any:
        """Build a model; the oracle, which is built in float64, is converted to the config's dtype."""
        if self.name != "numpy":
            return self.implementation.resnet(config, weights, **options)
        model = self.implementation.resnet(config, **options).astype(config.dtype or "float64")
        if weights is not None:
            self.implementation.write_weights(model, weights)
        return model

    def run(self, model: Any, images: np.ndarray, train: bool = False, layers: bool = False) -> dict[str, np.ndarray]:
        """Return the activations of a run in inference or train mode."""
        images = self.images(images)
        options = {"training": train} if self.name == "keras" else {}
        if self.name != "keras":
            model.train() if train else TO_INFERENCE[self.name](model)
        activations = ACTIVATIONS.get(self.name, plain_activations)(model, images, layers, **options)
        return {name: channels_first(to_numpy(value), self.channels_last) for name, value in activations.items()}

    def normalise_in_training(self, model: Any, values: np.ndarray) -> Any:
        """Apply the stem's norm to NCHW values in train mode."""
        if self.name == "keras":
            return model.bn1(self.images(values), training=True)
        model.train()
        return model.bn1(self.images(values))

    def images(self, images: np.ndarray) -> Any:
        """Convert NCHW images to the framework's layout and tensor type."""
        images = np.ascontiguousarray(images.transpose(0, 2, 3, 1)) if self.channels_last else images
        return FROM_NUMPY[self.name](images)

    def arrays(self, model: Any) -> dict[str, np.ndarray]:
        """Return the model's weights in canonical form."""
        return dict(self.implementation.read_weights(model).to("canonical").arrays)


def torch_tensor(images: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(images)


def jax_array(images: np.ndarray) -> Any:
    import jax

    return jax.numpy.asarray(images)


def plain_activations(model: Any, images: Any, layers: bool, **options: Any) -> Any:
    return model.activations(images, layers, **options)


def compiled_activations(model: Any, images: Any, layers: bool) -> Any:
    """Compile the model as a whole, which takes less than half the time of compiling its operations one by one."""
    from flax import nnx

    names: list[str] = []

    @nnx.jit
    def run(model: Any, images: Any) -> Any:
        activations = model.activations(images, layers)
        names.extend(activations)  # nnx.jit sorts the dictionary that it returns
        return activations

    activations = run(model, images)
    return {name: activations[name] for name in names}


ACTIVATIONS = {"flax": compiled_activations}
FROM_NUMPY: dict[str, Callable[[np.ndarray], Any]] = {
    "numpy": lambda images: images,
    "torch": torch_tensor,
    "flax": jax_array,
    "keras": lambda images: images,
}
TO_INFERENCE: dict[str, Callable[[Any], Any]] = {
    "numpy": lambda model: model.train(False),
    "torch": lambda model: model.eval(),
    "flax": lambda model: model.eval(),
}


def to_numpy(value: Any) -> np.ndarray:
    return np.array(value.detach() if hasattr(value, "detach") else value)


def channels_first(array: np.ndarray, channels_last: bool) -> np.ndarray:
    return array.transpose(0, 3, 1, 2) if channels_last and array.ndim == 4 else array


FRAMEWORKS = {
    framework.name: framework
    for framework in (
        Framework("numpy", channels_last=False, dtypes=("float32", "float64")),
        Framework("torch", channels_last=False, dtypes=("float32", "float64", "bfloat16")),
        Framework("flax", channels_last=True, dtypes=("float32", "float64")),
        Framework("keras", channels_last=True, dtypes=("float32", "float64", "bfloat16")),
    )
}


@pytest.fixture(scope="session", params=list(FRAMEWORKS))
def framework(request: pytest.FixtureRequest) -> Framework:
    """Each implementation, including the oracle."""
    return FRAMEWORKS[request.param]


@pytest.fixture(scope="session", params=[name for name in FRAMEWORKS if name != "numpy"])
def candidate(request: pytest.FixtureRequest) -> Framework:
    """Each implementation that is held to the oracle."""
    return FRAMEWORKS[request.param]


@pytest.fixture(scope="session")
def frameworks() -> dict[str, Framework]:
    """All implementations by name."""
    return FRAMEWORKS


@pytest.fixture(scope="session")
def small() -> ResNetConfig:
    """Variant v1.5 with every kind of block and few channels."""
    return ResNetConfig(depths=(2, 1, 1, 1), width=8, num_classes=10)


@pytest.fixture(scope="session")
def small_images() -> np.ndarray:
    """Two images whose height is even and whose width is odd."""
    return np.random.default_rng(1).standard_normal((2, 3, 64, 81), np.float32)


@pytest.fixture
def float64() -> Any:
    """Let JAX compute in float64."""
    import jax

    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def random_weights() -> Callable[..., Checkpoint]:
    """Draw weights of a network; norms have scales, offsets, means and variances away from 1, 0, 0 and 1."""

    def make(config: ResNetConfig, dtype: str = "float64", seed: int = 0) -> Checkpoint:
        rng, arrays = np.random.default_rng(seed), {}
        for name, shape in expected_shapes(config).items():
            if len(shape) > 1:
                array = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
            elif name.endswith(".weight") or name.endswith(".running_var"):
                array = rng.uniform(0.5, 1.5, shape)
            else:
                array = rng.standard_normal(shape) * 0.1
            arrays[name] = array.astype(dtype)
        return Checkpoint(arrays, find_dialect("canonical"), replace(config, dtype=dtype), where="random weights")

    return make
