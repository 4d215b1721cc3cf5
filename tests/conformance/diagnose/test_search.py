"""The search for causes, over evidence that is made up: arrays are numbers, and faults explain some of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from conformance.diagnose.search import Attempt, Search, by_parameter, distance, estimates, hypotheses, pairs
from conformance.faults import Injection, find_fault
from impls.config import VARIANTS

CONFIG = VARIANTS["v1.5"]


def injection(id):
    fault = find_fault(id)
    return Injection(fault, fault.places(CONFIG)[0])


BGR, KERAS, POOL, OTHER = (injection(id) for id in ("bgr", "eps-keras", "pool-valid", "eps-other"))


@dataclass(eq=False)
class MadeUp(Search[int]):
    """Attempts in rounds by what is first wrong."""

    all_wrong: list[int]
    tries: dict[int, list[list[Attempt]]]

    def __post_init__(self):
        super().__post_init__()
        self.limit, self.wrong, self.asked = 1e-11, self.all_wrong, []

    def locate(self, first):
        return f"array {first}", "stem", 1.0

    def rounds(self, first):
        for number, attempts in enumerate(self.tries.get(first, [])):
            self.asked.append((first, number))
            yield attempts


def explains(faults, *arrays, **facts):
    return Attempt(faults, True, arrays, 1e-15, 1e-15, **facts)


def leaves(faults, left, **facts):
    return Attempt(faults, False, left=left, **facts)


def test_faults_are_found_one_after_the_other_and_are_causes_from_then_on():
    search = MadeUp([1, 2, 3], {1: [[explains((BGR,), 1, 2)]], 3: [[explains((KERAS,), 3)]]})
    assert [(finding.layer, finding.causes) for finding in search.findings()] == [
        ("array 1", (BGR,)),
        ("array 3", (KERAS,)),
    ]
    assert search.causes == [BGR, KERAS]


def test_the_fault_that_explains_the_most_is_named_and_those_that_explain_the_same():
    attempts = [explains((KERAS,), 1), explains((BGR,), 1, 2), explains((POOL,), 1, 2), explains((OTHER,), 1, 3)]
    (finding, rest) = MadeUp([1, 2, 3], {1: [attempts]}).findings()
    assert finding.causes == (BGR, POOL)
    assert (rest.layer, rest.causes) == ("array 3", ())


def test_a_further_round_is_asked_for_only_if_nothing_stands():
    search = MadeUp([1, 2], {1: [[leaves((BGR,), 0.5)], [explains((KERAS,), 1)], []], 2: [[explains((POOL,), 2)], []]})
    search.findings()
    assert search.asked == [(1, 0), (1, 1), (2, 0)]


def test_the_search_ends_at_what_no_fault_explains():
    search = MadeUp([1, 2], {1: [[leaves((BGR,), 0.05)]], 2: [[explains((KERAS,), 2)]]})
    (finding,) = search.findings()
    assert (finding.causes, finding.nearest, finding.error) == ((), BGR, 0.05)


@pytest.mark.parametrize(
    "attempts",
    [
        [leaves((BGR,), 0.2)],  # it explains four fifths of the error
        [leaves((BGR, KERAS), 0.05)],  # two, of which nobody knows which
        [leaves((BGR,), 0.05, spoils=True)],  # it makes a right array wrong
    ],
)
def test_none_of_these_is_the_nearest(attempts):
    (finding,) = MadeUp([1], {1: [attempts]}).findings()
    assert (finding.nearest, finding.error) == (None, 1.0)


def test_a_fault_that_explains_the_first_wrong_array_alone_is_not_said_to_leave_an_error():
    (finding,) = MadeUp([1], {1: [[leaves((BGR,), 1e-15, still_wrong="array 2")]]}).findings()
    assert str(finding).endswith(" explains array 1, but not array 2")


def test_a_fault_that_explains_an_array_is_never_said_to_leave_an_error():
    (finding,) = MadeUp([1], {1: [[leaves((BGR,), 5e-17)]]}).findings()
    assert str(finding).endswith(" explains array 1, but not other arrays")


def test_two_that_are_found_together_are_one_round_and_what_is_not_examined_is_said():
    tries = {number: [[explains((BGR, KERAS), number)]] for number in range(9)}
    *found, rest = MadeUp(list(range(9)), tries).findings()
    assert len(found) == 8
    assert (rest.layer, rest.causes) == ("array 4", ())
    assert str(rest) == "array 4 is wrong, too, and was not examined: mend what was found before, and run again"


def test_a_parameter_is_estimated_wherever_it_stands_among_the_faults():
    for faults in ((OTHER,), (BGR, OTHER), (OTHER, BGR)):
        estimated = list(estimates(faults, lambda faults: np.array([np.log(eps_of(faults) / 0.002)])))
        assert list(map(eps_of, estimated)) == pytest.approx([0.002])
    assert list(estimates((BGR,), lambda faults: np.ones(1))) == [(BGR,)]
    assert list(estimates((OTHER,), lambda faults: None)) == []


def test_an_estimate_is_given_once_however_many_starts_end_there():
    def two_minima(faults):
        wanted = 1e-6 if eps_of(faults) < 1e-5 else 0.002
        return np.array([np.log(eps_of(faults) / wanted)])

    assert len(OTHER.fault.parameter.starts) == 3
    assert list(map(eps_of, estimates((OTHER,), two_minima))) == pytest.approx([1e-6, 0.002])


def eps_of(faults):
    return next(each.parameter for each in faults if each.fault is OTHER.fault)


def test_pairs_come_without_parameters_first_and_with_one_at_most():
    assert by_parameter([OTHER, BGR, KERAS]) == ([BGR, KERAS], [OTHER])
    assert list(pairs([OTHER, BGR, KERAS])) == [[(BGR, KERAS)], [(BGR, OTHER), (KERAS, OTHER)]]


def test_hypotheses_are_the_faults_of_one_task_at_every_place():
    everything = hypotheses("gradients", CONFIG)
    assert {each.fault.task for each in everything} == {"gradients"}
    assert len(everything) == sum(
        len(fault.places(CONFIG)) for fault in {e.fault.id: e.fault for e in everything}.values()
    )


@pytest.mark.parametrize(
    ("reference", "array", "expected"),
    [
        ([3.0, 4.0], [3.0, 4.5], 0.1),
        ([3.0, np.nan], [3.3, np.nan], 0.1),
        ([np.nan, 1.0], [1.0, np.nan], np.inf),
        ([np.inf, 1.0], [0.0, 1.0], np.inf),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([0.0, 0.0], [0.0, 1e-9], np.inf),
        ([1.0], [1.0, 1.0], np.inf),
    ],
)
def test_distance_accepts_every_array(reference, array, expected):
    assert distance(np.array(reference), np.array(array)) == pytest.approx(expected)
