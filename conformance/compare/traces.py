"""Compares a candidate's trace with the oracle's of the same case: a comparison for every array.

A comparison cannot pass vacuously: a missing array, another shape or dtype, NaN or infinity on either side, and a
constant oracle are all failures. Nothing here knows a framework.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from conformance.cases.segments import BLOCK
from conformance.compare.comparison import Comparison, Verdict
from conformance.compare.forward import judge_forward
from conformance.compare.initial import judge_initialisation
from conformance.compare.noise import NoiseFloors
from conformance.compare.training import judge_training
from conformance.trace import Origin, Trace
from impls.config import ResNetConfig
from weights_convert.shapes import expected_shapes

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of arrays by name."""


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
    expected, listed = expected_shapes(config), candidate.origin.parameters
    different = [name for name in dict.fromkeys([*expected, *listed]) if expected.get(name) != listed.get(name)]
    words = "; ".join(_grouped(different, expected, listed))
    verdict = Verdict(float(len(different)), 0.0, not different, words)
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


def _grouped(different: Sequence[str], expected: Shapes, listed: Shapes) -> Iterator[str]:
    """Say which arrays are missing, are too many or have another shape, those of one block or layer together.

    Example:
        >>> expected = {"stage1.0.bn1.bias": (8,), "stage1.0.conv1.weight": (8, 8, 1, 1), "fc.bias": (10,)}
        >>> list(_grouped(list(expected), expected, {"fc.bias": (12,)}))
        ['stage1.0 is missing: 2 arrays', 'fc.bias is (12,) where (10,) is expected']
    """
    kinds: dict[tuple[str, str], list[str]] = {}
    for name in different:
        kind = "is missing" if name not in listed else "is not known" if name not in expected else ""
        block = BLOCK.match(name)
        whole = block and all(each in different for each in expected if each.startswith(f"{block.group()}."))
        group = block.group() if block and whole else name.rpartition(".")[0] or name
        kinds.setdefault((group if kind else name, kind), []).append(name)
    for (group, kind), names in kinds.items():
        if not kind:
            yield f"{group} is {listed[group]} where {expected[group]} is expected"
        elif len(names) == 1:
            yield f"{names[0]} {kind}"
        else:
            yield f"{group} {kind}: {len(names)} arrays"
