"""A case can name files and describe itself."""

from __future__ import annotations

from conformance.cases.case import Case


def test_a_case_has_a_file_name_whatever_its_input_is_called():
    assert Case("v1.5", "../my cat?.jpg", "train", layers=True).slug == "v1.5--.._my_cat_.jpg--train--layers"


def test_task_and_recipe_are_its_words_and_part_of_its_file_name():
    case = Case("v1", "noise", "train", task="steps", recipe="sgd")
    assert (case.words, case.slug) == ("steps sgd", "v1--noise--train--steps--sgd")
    assert Case("v1", "noise", "train").words == ""
