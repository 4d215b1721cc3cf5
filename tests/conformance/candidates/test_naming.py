"""Names of a model's arrays are read as those of a dialect, behind any prefix."""

from __future__ import annotations

from dataclasses import replace

import pytest

from conformance.run.candidates.naming import read_names
from impls.config import VARIANTS
from weights_convert.dialects import DIALECTS
from weights_convert.shapes import expected_shapes

SMALL = replace(VARIANTS["v1.5"], depths=(1, 2, 1, 1), width=4, num_classes=10)


def linen_names(dialect, prefix):
    """Name the arrays of a Linen module whose layers are named as in a dialect; returns names by canonical name."""
    shapes = expected_shapes(SMALL)
    paths, leaves = (DIALECTS[each].write_names(shapes) for each in (dialect, "flax"))
    names = {}
    for canonical in shapes:
        path, leaf = paths[canonical][0].rpartition(".")[0], leaves[canonical][0].rpartition(".")[2]
        collection = "batch_stats" if leaf in ("mean", "var") else "params"
        names[canonical] = f"{collection}.{prefix}{path.removeprefix('params.').removeprefix('batch_stats.')}.{leaf}"
    return names


@pytest.mark.parametrize("prefix", ["", "encoder.", "model.backbone."])
@pytest.mark.parametrize("dialect", ["flax-linen", "torchvision", "canonical"])
def test_a_linen_module_is_read_behind_the_modules_that_hold_it(dialect, prefix):
    names = linen_names(dialect, prefix)
    naming = read_names(names.values(), "flax")
    assert naming.canonical_names() == {name: canonical for canonical, name in names.items()}
    assert (naming.prefix, naming.unread) == (prefix, ())
    assert all(path.startswith(prefix) for path in naming.layers().values())


def test_arrays_beside_the_network_are_not_read():
    names = linen_names("flax-linen", "encoder.")
    naming = read_names([*names.values(), "params.projection.kernel", "batch_stats.other.mean"], "flax")
    assert naming.unread == ("params.projection.kernel", "batch_stats.other.mean")
