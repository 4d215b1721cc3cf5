"""Changes of numbers: each does what it reports and no more, and folding keeps the function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from conformance.cases.inputs import noise
from conformance.cases.synthetic import synthetic_weights
from impls.config import VARIANTS
from impls.numpy import resnet
from weights_convert import Checkpoint, ConversionError, cast, drop_background, fold_conv_bias

MakeCheckpoint = Callable[..., Checkpoint]
KERAS = replace(VARIANTS["keras"], depths=(2, 1, 1, 1), width=8, num_classes=10)


def test_folded_biases_compute_the_same_function():
    checkpoint = cast(synthetic_weights(KERAS, seed=0), "float64")
    folded = fold_conv_bias(checkpoint)
    images = noise(65, 97, 2, seed=0).images.astype(np.float64)
    before, after = resnet(checkpoint.config, checkpoint)(images), resnet(folded.config, folded)(images)
    assert folded.config.variant == "v1"
    assert np.linalg.norm(after - before) / np.linalg.norm(before) < 1e-13
    unfolded = {name: array for name, array in checkpoint.arrays.items() if name in folded.arrays}
    other = resnet(folded.config, Checkpoint(unfolded, checkpoint.dialect, folded.config))(images)
    assert np.linalg.norm(other - before) / np.linalg.norm(before) > 1e-3  # without them the function is another one


def test_folding_is_recorded_and_refused_without_biases(checkpoint_of: MakeCheckpoint, tmp_path):
    folded = fold_conv_bias(synthetic_weights(KERAS, seed=0))
    folded.to("torchvision").save(tmp_path / "a.safetensors")
    assert len(folded.changes) == 1
    with pytest.raises(ConversionError, match="no biases to fold"):
        fold_conv_bias(checkpoint_of())


def test_a_wider_dtype_loses_nothing(checkpoint_of: MakeCheckpoint):
    checkpoint = checkpoint_of(dtype="bfloat16")
    wide = cast(checkpoint, "float32")
    assert wide.changes == ("bfloat16 to float32: no number changed",)
    assert wide.dtypes() == ["float32"]


@pytest.mark.parametrize(
    ("dtype", "numbers", "facts"),
    [
        (
            "float16",
            [1.0, 1e6, 1e-9, np.nan, np.inf],
            "2 of 5 numbers changed, by at most 0.0e+00 of their value; 1 became infinite; 1 became zero",
        ),
        ("bfloat16", [1.0, 1 + 2**-9], "1 of 2 numbers changed, by at most 1.9e-03 of their value"),
        ("float16", [0.5, -2.0], "no number changed"),
    ],
)
def test_a_narrower_dtype_reports_what_is_lost(dtype, numbers, facts, checkpoint_of: MakeCheckpoint):
    checkpoint = replace(checkpoint_of(), arrays={"fc.bias": np.array(numbers, np.float32)})
    assert cast(checkpoint, dtype).changes == (f"float32 to {dtype}: {facts}",)


def test_only_a_background_is_dropped(checkpoint_of: MakeCheckpoint, tiny):
    checkpoint = checkpoint_of(replace(tiny, num_classes=1001), dialect="flax")
    smaller = drop_background(checkpoint)
    assert smaller.dialect == checkpoint.dialect
    assert smaller.config.num_classes == 1000
    assert smaller.arrays["fc.kernel"].tobytes() == checkpoint.arrays["fc.kernel"][:, 1:].tobytes()
    assert smaller.arrays["conv1.kernel"].tobytes() == checkpoint.arrays["conv1.kernel"].tobytes()
    with pytest.raises(ConversionError, match="it has 1000 classes"):
        drop_background(smaller)
