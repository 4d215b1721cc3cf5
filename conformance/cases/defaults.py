"""Default inputs of a run.

An input exposes a bug or hides it, so there are several: a real photograph, signed noise, sizes odd and even, not
square, a batch of one and of several.

Example:
    >>> from impls.config import VARIANTS
    >>> [input.name for input in default_inputs(VARIANTS["v1.5"], seed=0)]
    ['photograph', 'noise-224x224', 'noise-65x97', 'noise-64x96']
"""

from __future__ import annotations

from conformance.cases.inputs import Input, InputError, noise, noise_sides
from conformance.cases.pictures import IMAGENET_MEAN, photograph
from impls.config import ResNetConfig


def default_inputs(config: ResNetConfig, seed: int, size: int = 224) -> list[Input]:
    """Make the inputs of a run for which the user names none: four, or three without the photograph.

    Args:
        config: The network. Its `in_channels` are the images' channels; only three of them make a photograph. Its
            `head_pool` decides the sizes, the smallest it takes.
        seed: Of the noise; 0 or more.
        size: Side of the photograph and of the square noise.

    Returns:
        The photograph, square noise, odd and not square noise, even and not square noise.

    Raises:
        InputError: If the network does not take images of `size`, or the seed is negative.

    Example:
        >>> from impls.config import named_config
        >>> [input.images.shape for input in default_inputs(named_config("tutorial", in_channels=1), seed=0)]
        [(1, 1, 224, 224), (3, 1, 193, 225), (1, 1, 224, 256)]
    """
    try:
        config.check_input(size, size, config.in_channels)
    except ValueError as error:
        raise InputError(str(error)) from error
    photographs = [photograph(size)] if config.in_channels == len(IMAGENET_MEAN) else []
    noises = ((size, size, 1), *noise_sides(config.head_pool))
    return photographs + [noise(height, width, batch, seed, config.in_channels) for height, width, batch in noises]
