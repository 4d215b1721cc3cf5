"""Compares a candidate's trace with the oracle's of the same case: a comparison for every array.

A comparison cannot pass vacuously: a missing array, another shape or dtype, NaN or infinity on either side, and a
constant oracle are all failures. Nothing here knows a framework.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from conformance.compare.comparison import Comparison, Verdict
from conformance.compare.forward import judge_forward
from conformance.compare.initial import judge_initialisation
from conformance.compare.noise import NoiseFloors
from conformance.compare.training import judge_training
from conformance.trace import Origin, Trace
from impls.config import ResNetConfig
from weights_convert.shapes import expected_shapes


@dataclass(frozen=True)
class Judge:
    """A row of the table of judges: how the arrays of a task are judged.

    Attributes:
        verdicts: From the oracle's trace, the candidate's, the network and the noise floors to a verdict on each array.
        input_matters: Whether the arrays depend on the case's input and mode.
    """

    verdicts: Callable[[Trace, Trace, ResNetConfig, NoiseFloors], Mapping[str, Verdict]]
    input_matters: bool = True


JUDGES: dict[str, Judge] = {
    "forward": Judge(judge_forward),
    "gradients": Judge(judge_training),
    "backward": Judge(judge_training),
    "steps": Judge(judge_training),
    "initialisation": Judge(judge_initialisation, input_matters=False),
}
"""The judge of each task."""


def compare_traces(
    oracle: Trace, candidate: Trace, config: ResNetConfig, floors: NoiseFloors | None = None
) -> list[Comparison]:
    """Compare every array that the case promises, in the order in which a fault would show.

    Args:
        oracle: The float64 oracle's trace of the same case.
        candidate: The candidate's trace.
        config: The network.
        floors: The noise floors of the case; needed where the candidate is float32.

    Raises:
        ValueError: If the traces are of different cases, weights or inputs.
    """
    origin = candidate.origin
    for key in ("case", "weights", "input"):
        expected, actual = getattr(oracle.origin, key), getattr(origin, key)
        if expected != actual:
            raise ValueError(f"traces of different {key}: {expected} and {actual}")
    judge = JUDGES[origin.case.task]
    verdicts = judge.verdicts(oracle, candidate, config, floors or {})
    return [
        comparison_of(origin, name, verdict, input_matters=judge.input_matters) for name, verdict in verdicts.items()
    ]


def compare_parameters(candidate: Trace, config: ResNetConfig) -> Comparison:
    """Compare names and shapes of the arrays that the model lists with those that the network has.

    The error is the number of arrays that differ; none may.
    """
    problems = list(_differences(expected_shapes(config), candidate.origin.parameters))
    verdict = Verdict(float(len(problems)), 0.0, not problems, "; ".join(problems[:3]))
    origin = replace(candidate.origin, case=replace(candidate.origin.case, task="forward", recipe=""))
    return comparison_of(origin, "parameters", verdict, input_matters=False)


def comparison_of(origin: Origin, name: str, verdict: Verdict, input_matters: bool) -> Comparison:
    """Make the comparison that a verdict belongs to: one array of a trace of that origin."""
    return Comparison(
        **vars(verdict),
        candidate=origin.candidate,
        precision=origin.precision,
        case=origin.case,
        name=name,
        input_matters=input_matters,
    )


def _differences(expected: Mapping[str, tuple[int, ...]], listed: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    for name in dict.fromkeys([*expected, *listed]):
        if expected.get(name) != listed.get(name):
            yield f"{name}: {listed.get(name, 'missing')} where {expected.get(name, 'nothing')} is expected"
