"""A case can name files and describe itself."""

from __future__ import annotations

import re

from conformance.cases.case import Case


def test_a_case_has_a_file_name_whatever_its_input_is_called():
    slug = Case("v1.5", "../my cat?.jpg", "train", layers=True).slug
    assert re.fullmatch(r"v1\.5--\.\._my_cat_\.jpg-[0-9a-f]{8}--train--layers", slug)
    assert len({Case("v1.5", name, "train").slug for name in ("my cat.jpg", "my_cat.jpg", "my?cat.jpg")}) == 3


def test_task_and_recipe_are_its_words_and_part_of_its_file_name():
    case = Case("v1", "noise", "train", task="steps", recipe="sgd")
    assert (case.words, case.slug) == ("steps sgd", "v1--noise--train--steps--sgd")
    assert Case("v1", "noise", "train").words == ""
