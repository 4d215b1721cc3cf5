"""Draw initial weights that all frameworks can start from; each framework alone would draw other numbers."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes  # noqa: F401 (makes NumPy know the name "bfloat16")

from impls.config import ResNetConfig, named_config
from impls.numpy.resnet import resnet
from impls.numpy.state import read_weights
from weights_convert import Checkpoint


def initial_weights(
    variant: str | ResNetConfig = "v1.5", num_classes: int = 1000, *, seed: int = 0, dtype: str = "float32"
) -> Checkpoint:
    """Draw random weights to start training from, the same for every framework.

    NumPy's `default_rng(seed)` draws them in float64 from the distributions that all four models start from, and they
    are rounded to `dtype`: kernels normal with variance 2 / (out channels * kernel area), the classifier's weight
    normal with deviation 0.01; scales and running variances are 1, biases and running means 0.

    Args:
        variant: One of `impls.config.VARIANTS`, or a whole configuration.
        num_classes: Number of classes; 0 leaves the classifier out. A configuration has its own.
        seed: Seed of the generator.
        dtype: "bfloat16", "float16", "float32" or "float64"; choose that of the model that takes the weights.

    Returns:
        A canonical checkpoint: kernels (out, in, height, width), the classifier's weight (classes, features).

    Raises:
        ValueError: If there is no such variant.

    Example:
        >>> weights = initial_weights("v1.5", num_classes=10, seed=0)  # for resnet50("v1.5", 10, weights=weights)
        >>> weights.arrays["fc.weight"].shape, weights.dtypes()
        ((10, 2048), ['float32'])
    """
    config = named_config(variant, num_classes) if isinstance(variant, str) else variant
    checkpoint = read_weights(resnet(config, seed=seed))
    arrays = {name: array.astype(dtype) for name, array in checkpoint.arrays.items()}
    return replace(checkpoint, arrays=arrays, where=f"initial weights of seed {seed}")
