"""Candidates are named by a row of a table, by an adapter of one's own, or by a row with faults of the catalogue."""

from __future__ import annotations

import pytest

from conformance.run.implementations import IMPLEMENTATIONS, ORACLE, find_implementation


def test_a_row_is_found_by_its_name():
    assert find_implementation("torch") is IMPLEMENTATIONS["torch"]


def test_an_adapter_of_ones_own_is_named_by_module_and_class():
    mine = find_implementation("mine=my_package.adapter:MyAdapter")
    assert (mine.name, mine.adapter, mine.faults) == ("mine", "my_package.adapter:MyAdapter", ())


def test_a_faulty_candidate_is_a_row_with_faults():
    broken = find_implementation("broken=torch+pad-same@stage3.0.conv2+bgr@input")
    assert broken.name == "broken"
    assert broken.adapter == IMPLEMENTATIONS["torch"].adapter
    assert broken.packages == IMPLEMENTATIONS["torch"].packages
    assert broken.faults == [("pad-same", "stage3.0.conv2"), ("bgr", "input")]
    assert find_implementation("broken=oracle+bgr@input").adapter == ORACLE.adapter


@pytest.mark.parametrize(
    "text",
    [
        "no-such",
        "torch=my_package:Adapter",
        "oracle=torch+bgr@input",
        "mine=",
        "=torch+bgr@input",
        "mine=module",
        "mine=module:",
        "broken=torch",
        "broken=torch+bgr",
        "broken=torch+@input",
        "broken=torch+bgr@",
        "broken=torch+bgr@input+",
        "broken=no-such+bgr@input",
        "broken=my_package:Adapter+bgr@input",
    ],
)
def test_anything_else_is_refused_with_the_spellings(text):
    with pytest.raises(ValueError, match=r"there are torch, flax, keras.*NAME=MODULE:CLASS.*NAME=torch\+FAULT@PLACE"):
        find_implementation(text)
