"""The part of an adapter that every kind of model shares: names, hooks, what is not shown, the first look."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from conformance.run.adapters.blueprint import BlueprintAdapter
from conformance.run.candidates.hooks import Hook, ValueTap, find_hooks, untapped
from conformance.run.candidates.naming import FOLDED, Naming, read_names
from conformance.run.candidates.options import Options
from conformance.run.candidates.repeat import examine, out_of_order
from conformance.run.candidates.survey import Survey, Unfit
from conformance.run.capabilities import Arrays, ArrayTap, Capability, Examination
from impls.config import ResNetConfig
from impls.recipe import Recipe
from weights_convert import Checkpoint, TrainingState, load
from weights_convert.dialects import find_dialect
from weights_convert.errors import first_line
from weights_convert.shapes import Shape
from weights_convert.sources import Source
from weights_convert.table import RUNNING_STATISTICS, Framework

if TYPE_CHECKING:
    from conformance.run.candidates.kinds import Kind


CROSSED = (
    "the names of its layers are mapped crosswise, so that what is said of them cannot be trusted, or it computes in "
    "another order than this network"
)
"""Conclusion from layers that are called before those that they are computed from."""


class Run(Protocol):
    """The part of a `Training` of `impls` that is the same in every framework."""

    recipe: Recipe

    @property
    def steps(self) -> int:
        """Number of steps taken."""


class ModelCandidate(BlueprintAdapter):
    """A model, run as it is. A subclass says how its framework runs it.

    Args:
        model: The model.
        options: What the user says about it.

    Attributes:
        kind: Its row of the table of kinds.
        packages: Installed distributions that it comes from.
        cannot: What it cannot do, by mode, task or precision, each with the reason.
        not_shown: Arrays that it cannot show, by canonical name, each with the reason.
        hooks: Where its activations are seen.
        untrained: All arrays as they were before a run of training altered them; None where none did.
    """

    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.PROBE, Capability.TAP, Capability.DIFFERENTIATE, Capability.TRAIN, Capability.EXAMINE}
    )
    framework: Framework
    kind: Kind
    packages: tuple[str, ...] = ()
    precision: str
    config: ResNetConfig
    naming: Naming

    def __init__(self, model: Any, options: Options) -> None:
        self.module, self.options = model, options
        self.cannot: dict[str, str] = {}
        self.not_shown: dict[str, str] = {}
        self.hooks: list[Hook] = []
        self.untrained: dict[str, np.ndarray] | None = None

    def survey(self) -> Survey:
        """Describe the model without running it, and write its arrays to a file where they were asked for."""
        file, decays = self.options.own_weights, self.decays()
        if file:
            self.save_arrays(file)
        decay = decays.pop() if len(decays) == 1 else None
        name, shapes, facts = self.kind.name, self.shapes(), self.facts()
        return Survey(name, self.framework, shapes, self.packages, facts, decay, self.cannot, file)

    def save_arrays(self, file: str) -> None:
        """Write all arrays to a file by the model's own names."""
        from safetensors.numpy import save_file

        save_file(self.named_arrays(), file)

    @abstractmethod
    def shapes(self) -> dict[str, Shape]:
        """Return the shape of every array by the model's own names."""

    def decays(self) -> set[float]:
        """Return the shares of the running statistic that norms keep; none where they do not tell."""
        return set()

    def facts(self) -> dict[str, Any]:
        """Return the configuration of one of this project's own models."""
        config = getattr(self.module, "config", None)
        return config.to_dict() if isinstance(config, ResNetConfig) else {}

    @abstractmethod
    def named_arrays(self) -> dict[str, np.ndarray]:
        """Copies of all arrays by the model's own names."""

    @abstractmethod
    def set_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Set arrays by the model's own names; their dtype is that of the file."""

    @abstractmethod
    def layer_paths(self) -> Collection[str]:
        """Paths of the layers whose calls can be seen."""

    @abstractmethod
    def run(self, images: np.ndarray, train: bool, tap: ArrayTap, hooks: Sequence[Hook]) -> Arrays:
        """Run the model; activations at some hooks pass the tap, and the logits at the end.

        Returns:
            In train mode the running statistics after the run, which are then put back.
        """

    @property
    def output_name(self) -> str:
        """The activation that the model returns."""
        return "logits" if self.config.num_classes else "pool"

    def build(self, config: ResNetConfig, weights: Source) -> None:
        """Give the model the weights, unless it keeps its own, and find its layers."""
        self.config, self.untrained, own = config, None, self.named_arrays()
        self.naming = read_names(own, self.framework, Path(self.options.names) if self.options.names else None)
        if "weights" not in self.cannot and not self.naming.is_folded:
            given = load(weights).to("canonical").arrays
            arrays = {
                name: self.naming.from_canonical(name, given[known])
                for name, known in self.naming.canonical_names().items()
                if known in given
            }
            self.set_arrays({name: array for name, array in arrays.items() if array.shape == own[name].shape})
        self.hooks, self.not_shown = find_hooks(self.layer_paths(), self.naming, config)

    def parameters(self) -> Mapping[str, tuple[int, ...]]:
        """The arrays that the model lists, by canonical name where it is known."""
        return self.naming.shapes({name: array.shape for name, array in self.named_arrays().items()})

    def canonical_state(self) -> dict[str, np.ndarray]:
        """Copies of all arrays that are read, by canonical name."""
        state = self.named_arrays()
        return {known: self.naming.to_canonical(name, state[name]) for name, (known, _) in self.naming.arrays.items()}

    def running_statistics(self) -> dict[str, np.ndarray]:
        """Copies of the running statistics by canonical name."""
        return {name: a for name, a in self.canonical_state().items() if name.endswith(RUNNING_STATISTICS)}

    def keep_untrained(self) -> None:
        """Keep all arrays, those before an earlier run of training, since a run trains the model itself."""
        self.restore()
        self.untrained = self.named_arrays()

    def restore(self) -> None:
        """Set all arrays to what they were before training."""
        if self.untrained is not None:
            self.set_arrays(self.untrained)
        self.untrained = None

    def training_state(self, run: Run, arrays: Arrays, slots: Mapping[str, Arrays]) -> TrainingState:
        """Describe a run of training by canonical arrays: the model's, and the optimizer's by slot."""
        checkpoint = Checkpoint(dict(arrays), find_dialect("canonical"), self.config)
        return TrainingState.of(checkpoint, slots, run.steps, run.recipe)

    def examine(self, images: np.ndarray) -> Examination:
        """Run the smallest input twice; see `repeat.examine`. What is never called cannot be shown."""
        if self.naming.is_folded:
            self.cannot |= dict.fromkeys(("train", "gradients", "backward", "steps"), FOLDED)
            inside = [hook.name for hook in self.hooks if hook.inside]
            self.not_shown |= dict.fromkeys((*inside, "parameters"), FOLDED)
        self.hooks = [hook for hook in self.hooks if hook.name not in self.not_shown]
        called = examine(self, images)
        for hook in self.hooks:
            if hook.name not in called and hook.name not in self.not_shown:
                self.not_shown[hook.name] = f"its layer, {hook.path}, is not called"
        self.hooks = [hook for hook in self.hooks if hook.name not in self.not_shown]
        order = out_of_order(self.config, called)
        return Examination(self.cannot, self.not_shown, f"{order}: {CROSSED}" if order else "")

    def record(self, images: np.ndarray, train: bool, layers: bool) -> Arrays:
        """Return activations, and running statistics after a train-mode run."""
        activations: dict[str, np.ndarray] = {}
        hooks = [hook for hook in self.hooks if layers or not hook.inside]
        statistics = self.run(images, train, activations.__setitem__, hooks)
        return activations | dict(statistics)

    def run_tapped(self, images: np.ndarray, train: bool, tap: ArrayTap) -> Arrays:
        """Pass every activation through a tap; return the running statistics after a train-mode run."""
        return self.run(images, train, tap, self.hooks)

    def array_tap(self, tap: ArrayTap) -> ValueTap:
        """Make a tap of the framework's tensors from one of canonical arrays."""

        def pass_on(name: str, value: Any) -> Any:
            replacement = tap(name, pooled(name, self.array(value)))
            return None if replacement is None else self.tensor(unpooled(replacement, len(value.shape)))

        return pass_on

    def replacing(self, activations: Arrays | None) -> tuple[ValueTap, Sequence[Hook]]:
        """Make a tap that replaces activations and passes the gradient on to those that are computed, and its hooks."""
        if activations is None:
            return untapped, ()

        def straight_through(name: str, value: Any) -> Any:
            if name == "logits":
                return None
            given = self.tensor(unpooled(activations[name], len(value.shape)))
            return given + (value - self.stop_gradient(value))

        return straight_through, self.hooks

    @contextmanager
    def running(self, shape: Sequence[int]) -> Iterator[None]:
        """Say of an error that the forward pass, which is run inside on images of a shape, raised it."""
        other = "NHWC" if self.framework == "torch" else "NCHW"
        try:
            yield
        except (TypeError, ValueError, RuntimeError) as error:
            raise forward_failed(error, shape, "" if self.options.layout else other) from error


def forward_failed(error: Exception, shape: Sequence[int], other: str) -> Unfit:
    """Say that a forward pass raised an error, and what else can be asked for: another layout, if none was."""
    hints = [f"--layout {other} gives them the other way round"] * bool(other)
    hints.append("--size 224 gives images of 224x224 alone")
    what = f"its forward pass raised {type(error).__name__} on images of shape {tuple(shape)}"
    return Unfit(f"{what}: {first_line(error)} ({'; '.join(hints)})")


def pooled(name: str, array: np.ndarray) -> np.ndarray:
    """Join the axes of pooled features behind the first; other activations stay as they are."""
    return array.reshape(len(array), -1) if name == "pool" else array


def unpooled(array: np.ndarray, axes: int) -> np.ndarray:
    """Give pooled features as many axes as the activation has whose place they take; the further ones have length one.

    Example:
        >>> unpooled(np.zeros((2, 2048)), 4).shape
        (2, 2048, 1, 1)
    """
    return array.reshape(array.shape + (1,) * (axes - array.ndim))
