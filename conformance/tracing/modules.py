"""Recordings of any network: what each of its modules returned, and the comparison of two of them by name.

The network need be no ResNet-50, and there is no oracle of it: the reference is a run in float64. A candidate in
float64 is held against it by the limit of the suite; one in float32 by what the reference itself errs by in float32.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from conformance.cases.sketch import SUMS, sketch
from conformance.compare.comparison import Verdict, judge_absolute
from conformance.compare.limits import ACTIVATIONS_FLOAT64, FLOAT32
from conformance.compare.measure import Incomparable, Measurement, measure
from conformance.compare.noise import NoiseFloor, two_digits
from conformance.outcome import Judged
from conformance.trace import TraceError
from conformance.tracing.recording import naming_the_file, read_hashed, write_hashed
from conformance.tracing.text import PASSED
from conformance.tracing.watchers import find_watcher
from weights_convert.errors import first_line

MODULES_VERSION = 1
"""Version of the file's metadata; a recording of another version is refused."""

KEY = "modules"
"""Key of the metadata, which tells such a file from a recording of a candidate."""


@dataclass(frozen=True, eq=False)
class ModuleRecording:
    """The values that the modules of a network returned, in the order in which they finished.

    Attributes:
        arrays: Arrays by the path of the module; "input" and "output" are those of the network.
        shapes: The shape of each, before it was sketched.
        name: The class of the network; of a file, its name.
    """

    arrays: Mapping[str, np.ndarray]
    shapes: Mapping[str, tuple[int, ...]]
    name: str

    @property
    def precision(self) -> str:
        """Name of the dtype of what the network returned."""
        return self.arrays[next(filter(is_output, self.shapes))].dtype.name

    def save(self, path: Path) -> None:
        """Write the recording, completely or not at all."""
        facts = {"format_version": MODULES_VERSION, "name": self.name, "shapes": list(self.shapes.items())}
        write_hashed(path, KEY, facts, self.arrays)

    @classmethod
    def load(cls, path: Path) -> ModuleRecording:
        """Read a recording; its arrays stay on disk until they are asked for.

        Raises:
            TraceError: If the file is damaged, of another version, or no such recording; the message names it.
        """
        with naming_the_file(path):
            none = "it is no recording of modules: a file of `conformance.recording` is expected"
            facts, arrays = read_hashed(path, KEY, MODULES_VERSION, none)
            return cls(arrays, {name: tuple(shape) for name, shape in facts["shapes"]}, path.name)


def holds_modules(path: Path) -> bool:
    """Tell a file of `recording` from every other file."""
    try:
        with safe_open(path, framework="numpy") as file:
            return KEY in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


@contextmanager
def record_modules(model: Any, path: Path, small: bool, layout: str) -> Iterator[None]:
    """Record what the modules of a network return while it is run; see `conformance.recording`."""
    watcher = find_watcher(model)
    last = (layout or watcher.layout) == "NHWC"
    arrays: dict[str, np.ndarray] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    calls: Counter[str] = Counter()

    def store(name: str, value: Any) -> None:
        calls[name] += 1
        numbered = name if calls[name] == 1 else f"{name}#{calls[name]}"
        for key, array in tensors_of(numbered, first_of(value) if is_input(name) else value):
            turned = array.transpose(0, 3, 1, 2) if last and array.ndim == 4 else array
            shapes[key] = turned.shape
            arrays[key] = shrunk(turned) if small and turned.dtype.kind == "f" and not is_input(key) else turned

    with watcher.watch(model, store):
        yield
    if not any(map(is_output, arrays)):
        raise TraceError(
            "nothing was recorded: the network was not called, or not so that its modules show what they return (a "
            "scripted module, a call through nnx.jit)"
        )
    ModuleRecording(arrays, shapes, type(model).__name__).save(path)


def is_input(name: str) -> bool:
    """Tell the inputs of a network, which are kept whole, from the arrays that it computes."""
    return call_of(name) == "input"


def is_output(name: str) -> bool:
    """Tell what a network returns from what its modules return."""
    return call_of(name) == "output"


def call_of(name: str) -> str:
    """Return the part of an array's name before the number of the call and the key in what was returned.

    Example:
        >>> call_of("input#2"), call_of("output.logits")
        ('input', 'output')
    """
    return re.split(r"[.#]", name)[0]


def first_of(inputs: tuple[Any, ...]) -> Any:
    """Return the only input of a network that holds tensors, or all such inputs, however they are passed."""
    tensors = [value for value in inputs if any(is_tensor(leaf) for _, leaf in leaves_of("", value))]
    return tensors[0] if len(tensors) == 1 else tensors


def leaves_of(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a value of nested mappings and sequences holds, each under the name and its keys."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from leaves_of(f"{name}.{key}", each)
    elif isinstance(value, tuple | list):
        for number, each in enumerate(value):
            yield from leaves_of(f"{name}.{number}", each)
    else:
        yield name, value


def is_tensor(value: Any) -> bool:
    """Tell a tensor of any framework, or an array of NumPy, from every other value."""
    return hasattr(value, "__array__") and hasattr(value, "shape") and hasattr(value, "dtype")


def tensors_of(name: str, value: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Yield copies of the tensors in a value, under the name, or the name and their keys where there are several.

    Raises:
        TraceError: If a tensor has no numbers: the network is being compiled.
    """
    for key, leaf in leaves_of(name, value):
        if is_tensor(leaf):
            try:
                yield key, to_array(leaf)
            except (TypeError, ValueError, NotImplementedError) as error:
                raise TraceError(
                    f"{key} has no numbers while the network is compiled: run it eagerly (in JAX without jax.jit, in "
                    f"Keras by calling the model, not by predict): {first_line(error)}"
                ) from error


def to_array(tensor: Any) -> np.ndarray:
    """Copy a tensor of any framework into an array; bfloat16, which NumPy has not, becomes float32."""
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu()
        return np.array((tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy())
    array = np.array(tensor)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def shrunk(array: np.ndarray) -> np.ndarray:
    """Return an array, or where it is large its sketch, in its dtype."""
    return sketch(array.astype(np.float64), largest=SUMS).astype(array.dtype)


@dataclass(frozen=True)
class ModuleReport(Judged):
    """The outcome of comparing the recordings of two networks.

    Attributes:
        reference: Name of the recording that the other is held against.
        candidate: Name of the other.
        verdicts: Name of each array in the reference to its verdict, in the order of computation.
        not_judged: What could not be judged, and why.
        notes: What is to be said about both.
        precision: That of the candidate's run.
    """

    reference: str
    candidate: str
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    not_judged: str = ""
    notes: tuple[str, ...] = ()
    precision: str = "float64"

    @property
    def first_divergence(self) -> str:
        """The first array that diverges; empty where none does."""
        return next((name for name, verdict in self.verdicts.items() if not verdict.passed), "")

    @property
    def verdict(self) -> str:
        """The verdict: "diverges", "incomplete" where something could not be judged, or "conforms"."""
        return "diverges" if self.first_divergence else "incomplete" if self.not_judged else "conforms"

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        arrays = [
            {"name": name, "error": v.error, "limit": v.limit, "passed": v.passed, "reason": v.reason}
            for name, v in self.verdicts.items()
        ]
        facts = {"verdict": self.verdict, "first": self.reference, "second": self.candidate, "arrays": arrays}
        return facts | {"not_judged": self.not_judged, "notes": list(self.notes)}

    def __str__(self) -> str:
        lines = [f"{self.candidate} held against {self.reference}", *(f"  {note}" for note in self.notes)]
        if self.not_judged:
            lines.append(f"not judged: {self.not_judged}")
        if first := self.first_divergence:
            lines.append(f"first diverging layer: {first}: {self.verdicts[first].reason}")
        elif self.verdict == "conforms":
            lines.append(f"{self.precision}: {PASSED[self.precision]}")
        passed = sum(verdict.passed for verdict in self.verdicts.values())
        return "\n".join([*lines, f"{self.verdict}: {passed:,} of {len(self.verdicts):,} arrays passed", ""])


def compare_modules(
    reference: ModuleRecording, candidate: ModuleRecording, names: Mapping[str, str], noise: ModuleRecording | None
) -> ModuleReport:
    """Compare the recordings of two networks.

    Args:
        reference: A run in float64.
        candidate: A run of the other network on the same input, in float64 or float32.
        names: Name in the reference to name in the candidate; where it is empty, equal names belong together.
        noise: A run of the reference in float32, from which the noise of float32 is measured.

    Raises:
        TraceError: If a name is in neither, nothing is in common, the inputs differ, or the reference is not float64.
    """
    pairs = pair_names(reference, candidate, names)
    if reference.precision != "float64":
        raise TraceError(f"{reference.name} is {reference.precision}: the reference is a run in float64")
    for each in filter(None, (candidate, noise)):
        check_inputs(reference, each)
    left_out = sum(not is_input(name) for name in reference.shapes) - len(pairs)
    notes = (f"{len(pairs):,} arrays are compared; {left_out:,} of the reference have no counterpart",)
    if candidate.precision not in PASSED:
        raise TraceError(f"{candidate.name} is {candidate.precision}: float64 and float32 are compared")
    if candidate.precision == "float32" and noise is None:
        reason = f"{candidate.name} is {candidate.precision}: a run of the reference in that precision shows its noise"
        return ModuleReport(reference.name, candidate.name, not_judged=f"{reason} (--noise FILE)", notes=notes)
    verdicts = {here: judge(reference, candidate, here, there, noise) for here, there in pairs.items()}
    seen = any(map(is_output, pairs))
    unseen = "" if seen else "what the networks return: no output of the reference has a counterpart (--names FILE)"
    return ModuleReport(reference.name, candidate.name, verdicts, unseen, notes, candidate.precision)


def pair_names(reference: ModuleRecording, candidate: ModuleRecording, names: Mapping[str, str]) -> dict[str, str]:
    """Pair the arrays of two recordings, in the order of the reference."""
    missing = [name for name in names if name not in reference.shapes]
    missing += [name for name in names.values() if name not in candidate.shapes]
    if missing:
        raise TraceError(f"no array has the name {', '.join(missing[:5])}, which the map gives")
    same = {name: name for name in reference.shapes if name in candidate.shapes and not is_input(name)}
    chosen = dict(names) or same
    if not chosen.keys() - {"output"}:
        raise TraceError(
            f"{reference.name} and {candidate.name} have no layer of the same name: give a map of names (--names)"
        )
    return {name: chosen[name] for name in reference.shapes if name in chosen}


def check_inputs(reference: ModuleRecording, other: ModuleRecording) -> None:
    """Check that two networks were given the same numbers."""
    for name in filter(is_input, dict.fromkeys((*reference.shapes, *other.shapes))):
        ours, theirs = reference.arrays.get(name), other.arrays.get(name)
        if ours is None or theirs is None or not np.array_equal(ours.astype(theirs.dtype), theirs):
            raise TraceError(f"{reference.name} and {other.name} cannot be compared: they were given different inputs")


def judge(
    reference: ModuleRecording, candidate: ModuleRecording, here: str, there: str, noise: ModuleRecording | None
) -> Verdict:
    """Judge one array of a candidate."""
    try:
        measured = distance(reference, here, candidate, there)
        if candidate.precision == "float64":
            return judge_absolute(measured, ACTIVATIONS_FLOAT64)
        assert noise is not None
        worst = distance(reference, here, noise, here).relative_l2
    except Incomparable as error:
        return Verdict(None, None, False, str(error).replace("the oracle", "the reference"))
    limit, reason = FLOAT32.allowed(worst, measured.numbers), ""
    if measured.relative_l2 > limit:
        reason = (
            f"error {two_digits(measured.relative_l2)}; the reference errs by {two_digits(worst)} in float32: a bug"
        )
    return Verdict(measured.relative_l2, limit, not reason, reason, NoiseFloor(worst, worst))


def distance(reference: ModuleRecording, here: str, other: ModuleRecording, there: str) -> Measurement:
    """Measure how far an array is from that of the reference.

    Raises:
        Incomparable: If it is missing, or of another shape or dtype than its recording, or `measure` cannot compare it.
    """
    if there not in other.shapes:
        raise Incomparable(f"{other.name} has no such array")
    if other.shapes[there] != reference.shapes[here]:
        raise Incomparable(f"shape {other.shapes[there]} where {reference.shapes[here]} is expected")
    ours, theirs = reference.arrays[here], other.arrays[there]
    if theirs.dtype.name != other.precision:
        raise Incomparable(f"{theirs.dtype} in a run in {other.precision}")
    if ours.shape != theirs.shape:
        ours, theirs = shrunk(ours), shrunk(theirs)
    if np.array_equal(ours, theirs):  # be it a constant, which proves nothing, and which no bug made either
        return Measurement(0.0, 0.0, ours.size)
    return measure(ours, theirs)


def read_map(file: Path | None) -> dict[str, str]:
    """Read a map of names: a TOML file whose table `names` gives, for names in the reference, those in the candidate.

    Raises:
        TraceError: If it is none.
    """
    if file is None:
        return {}
    try:
        names = tomllib.loads(file.read_text())["names"]
        if not names or not all(isinstance(name, str) for name in names.values()):
            raise ValueError("the table `names` holds texts, and one at least")
    except (OSError, KeyError, AttributeError, ValueError) as error:
        raise TraceError(f"{file}: it holds no map of names ({error}); see docs/traces.md") from error
    return dict(names)
