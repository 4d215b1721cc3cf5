"""Text edits: how they are written in a row, and what happens where one does not match."""

from __future__ import annotations

import pytest

from conformance.faults import EditError, Substitution
from conformance.faults.edit import before, by_framework, edited, replaced, together


def test_a_substitution_that_does_not_match_is_an_error():
    with pytest.raises(EditError, match=r"'y - x' stands there 0 times, where it should stand once"):
        edited("y + x", [Substitution("y - x", "y")], "a model")
    with pytest.raises(EditError, match="2 times"):
        edited("y + x + x", [Substitution("x", "y")], "a model")


def test_substitutions_are_made_one_after_the_other():
    edits = by_framework(torch=[("a", "b"), ("b c", "d")])["torch"]
    assert edited("a c", edits, "a model") == "d"


def test_a_line_is_replaced_by_one_text_or_by_each_frameworks_own():
    assert replaced("old", "new").keys() == {"torch", "flax", "keras", "numpy"}
    assert replaced({"torch": "a", "flax": "b"}, torch="c") == {"torch": (Substitution("a", "c"),)}


def test_edits_together_are_those_of_the_frameworks_that_have_them_all():
    first, second = replaced("a", "b"), replaced("c", torch="d")
    assert together(first, second) == {"torch": (Substitution("a", "b"), Substitution("c", "d"))}


def test_lines_are_put_before_another_with_its_indentation():
    assert before("    return y", "y = x", "y += 1") == ("    return y", "    y = x\n    y += 1\n    return y")
