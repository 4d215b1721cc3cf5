"""Convert the weights of a ResNet between frameworks, bit for bit.

No framework is imported, unless a container needs it (PyTorch for `.pth`, JAX for Orbax).

Example:
    >>> import weights_convert
    >>> checkpoint = weights_convert.load("resnet50.pth", variant="v1.5")  # doctest: +SKIP
    >>> checkpoint.to("flax").save("resnet50.flax.safetensors")  # doctest: +SKIP
"""

from weights_convert.changes import cast, drop_background, fold_conv_bias
from weights_convert.checkpoint import Checkpoint
from weights_convert.difference import Difference, differences
from weights_convert.errors import ConversionError
from weights_convert.fine_tuning import fit, head_from, sum_stem
from weights_convert.inspection import Inspection, inspect, load
from weights_convert.sources import Source
from weights_convert.training_state import TrainingState, load_training
from weights_convert.unlikely import UnlikelyNumbers

__all__ = [
    "Checkpoint",
    "ConversionError",
    "Difference",
    "Inspection",
    "Source",
    "TrainingState",
    "UnlikelyNumbers",
    "cast",
    "differences",
    "drop_background",
    "fit",
    "fold_conv_bias",
    "head_from",
    "inspect",
    "load",
    "load_training",
    "sum_stem",
]
