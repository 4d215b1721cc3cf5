"""Errors: each problem is a line, all are kept, and twelve are shown."""

from __future__ import annotations

from weights_convert import ConversionError


def test_each_problem_is_a_line_and_advice_the_last():
    error = ConversionError("a.pth", ["no rule for 'x'", "'fc.bias' is missing"], "Do this.")
    assert str(error).splitlines() == ["a.pth: no rule for 'x'", "a.pth: 'fc.bias' is missing", "Do this."]
    assert isinstance(error, ValueError)


def test_twelve_problems_are_shown_and_all_are_kept():
    error = ConversionError("a.pth", [f"problem {n}" for n in range(14)])
    assert len(error.problems) == 14
    assert str(error).splitlines()[11:] == ["a.pth: problem 11", "a.pth: and 2 more problems"]
