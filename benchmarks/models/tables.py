"""The tables of the benchmark: who is compared, in which ways, and in which order.

A comparison is one way of one family at one task, batch and precision; whatever has the same network takes part.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.models import contenders

KERAS_BACKEND = os.environ.get("KERAS_BACKEND") or (
    "tensorflow" if importlib.util.find_spec("tensorflow") else "jax" if importlib.util.find_spec("jax") else "torch"
)
"""Keras's backend: the environment's choice, else the first that is installed."""


@dataclass(frozen=True)
class Contender:
    """One ResNet-50 that can be run.

    Attributes:
        family: The framework it is a model of: one of `FAMILIES`.
        name: Whose it is; "ours" is this project's.
        variant: The network (`impls.config.VARIANTS`); only the same network is compared.
        requires: Modules that must be installed.
        imports: Modules that its process imports before memory is first measured.
        build: Makes the model from a checkpoint of the variant and a precision.
        ways: Names of the ways in which it runs; None for all of its family.
    """

    family: str
    name: str
    variant: str
    requires: tuple[str, ...]
    imports: tuple[str, ...]
    build: Callable[[Path, str, str], Any]
    ways: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Way:
    """One way to run the models of a family.

    Attributes:
        family: The framework.
        name: As the table prints it.
        rank: 0 for what matters most; a budget is spent on lower ranks first.
        tasks: What can be done in this way.
        devices: Where.
        requires: Modules that must be installed besides the contender's.
        precisions: In which precisions.
        backend: The backend of Keras that has this way; None for all.
    """

    family: str
    name: str
    rank: int = 0
    tasks: tuple[str, ...] = ("inference", "training")
    devices: tuple[str, ...] = ("cpu", "gpu")
    requires: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ("float32", "tf32", "bfloat16")
    backend: str | None = None


@dataclass(frozen=True)
class Comparison:
    """Settings that all contenders of one comparison share."""

    family: str
    variant: str
    way: str
    task: str
    batch: int
    precision: str

    def __str__(self) -> str:
        network = "" if self.variant == "v1.5" else f" {self.variant}"
        return f"{self.family}{network}, {self.way}, {self.task}, batch {self.batch}, {self.precision}"


CONTENDERS: tuple[Contender, ...] = (
    Contender("torch", "ours", "v1.5", ("torch",), ("impls.torch",), contenders.torch_ours),
    Contender(
        "torch", "torchvision", "v1.5", ("torch", "torchvision"), ("torchvision.models",), contenders.torchvision_model
    ),
    Contender("torch", "timm", "v1.5", ("torch", "timm"), ("timm",), contenders.timm_model),
    Contender(
        "torch",
        "transformers",
        "v1.5",
        ("torch", "transformers"),
        ("transformers.models.resnet.modeling_resnet",),
        contenders.transformers_model,
        ways=("eager",),
    ),
    Contender("jax", "ours", "v1.5", ("jax", "flax", "optax"), ("impls.flax",), contenders.flax_ours),
    Contender("jax", "plain functional", "v1.5", ("jax",), (), contenders.plain_jax),
    Contender("keras", "ours", "v1.5", ("keras", KERAS_BACKEND), ("impls.keras",), contenders.keras_ours),
    Contender(
        "keras",
        "Keras Hub",
        "v1.5",
        ("keras", "keras_hub", KERAS_BACKEND),
        ("keras_hub",),
        contenders.keras_hub_model,
    ),
    Contender("keras", "ours", "keras", ("keras", KERAS_BACKEND), ("impls.keras",), contenders.keras_ours),
    Contender(
        "keras",
        "keras.applications",
        "keras",
        ("keras", KERAS_BACKEND),
        ("keras.applications",),
        contenders.keras_applications_model,
    ),
)
"""Every contender; one whose modules are not installed is left out, and said to be."""

WAYS: tuple[Way, ...] = (
    Way("torch", "eager"),
    Way("jax", "jit"),
    Way("torch", "compiled"),
    Way("jax", "jit, split once"),
    Way("keras", "tf.function", tasks=("inference",), backend="tensorflow"),
    Way("keras", "jax.jit", tasks=("inference",), backend="jax"),
    Way("keras", "train_on_batch", tasks=("training",)),
    Way("torch", "channels-last", rank=1),
    Way("jax", "jit, cached_partial", rank=1),
    Way("torch", "compiled, channels-last", rank=1),
    Way(
        "torch",
        "ONNX Runtime",
        rank=1,
        tasks=("inference",),
        devices=("cpu",),
        requires=("onnx", "onnxruntime", "onnxscript"),
        precisions=("float32",),
    ),
    Way("keras", "predict", rank=1, tasks=("inference",)),
    Way("keras", "tf.function, XLA", rank=1, tasks=("inference",), backend="tensorflow"),
    Way("jax", "eager", rank=2, tasks=("inference",)),
    Way("keras", "eager", rank=2, tasks=("inference",)),
)
"""Every way, in the order in which a budget is spent on ways of one rank."""

BATCHES: Mapping[str, tuple[int, ...]] = {"cpu": (1, 8, 32), "gpu": (256, 32, 1)}
"""The batches of each device, the most important first."""

PRECISIONS: Mapping[str, tuple[str, ...]] = {"cpu": ("float32",), "gpu": ("float32", "tf32", "bfloat16")}
FAMILIES = ("torch", "jax", "keras")
TASKS = ("inference", "training")

LATE_BATCH: Mapping[str, int | None] = {"cpu": None, "gpu": 1}
"""A batch that comes after all tasks of the other batches: on a card, one image measures launches."""


def installed(modules: Iterable[str]) -> bool:
    """Whether all modules can be imported; none of them is."""
    return all(importlib.util.find_spec(module) is not None for module in modules)


def missing_modules(modules: Iterable[str]) -> list[str]:
    """The modules among these that are not installed."""
    return [module for module in modules if not installed([module])]


def comparisons(
    device: str,
    batches: Sequence[int],
    precisions: Sequence[str],
    tasks: Sequence[str],
    families: Sequence[str],
    ways: Sequence[str] | None = None,
) -> list[Comparison]:
    """All comparisons of these choices, the most important first.

    Ranks of ways come first; within a rank inference, then training, then the late batch; then batches in the order
    given, ways in the order of the table, and precisions.
    """
    chosen = [
        (
            (way.rank, batch == LATE_BATCH[device], tasks.index(task), batches.index(batch), position),
            [Comparison(way.family, variant, way.name, task, batch, name) for name in precisions],
        )
        for position, way in enumerate(WAYS)
        if way.family in families and device in way.devices and (ways is None or way.name in ways)
        if way.backend in (None, KERAS_BACKEND)
        for task in tasks
        if task in way.tasks
        for batch in batches
        for variant in dict.fromkeys(each.variant for each in CONTENDERS if each.family == way.family)
    ]
    ordered = [each for _, group in sorted(chosen, key=lambda pair: pair[0]) for each in group]
    return [each for each in ordered if each.precision in way_of(each).precisions and contenders_of(each)]


def way_of(comparison: Comparison) -> Way:
    """The row of the way that a comparison is of."""
    return next(way for way in WAYS if (way.family, way.name) == (comparison.family, comparison.way))


def contenders_of(comparison: Comparison) -> list[Contender]:
    """Those that take part in a comparison, installed or not."""
    return [
        each
        for each in CONTENDERS
        if (each.family, each.variant) == (comparison.family, comparison.variant)
        and (each.ways is None or comparison.way in each.ways)
    ]


def runnable(chosen: Iterable[Comparison]) -> list[Comparison]:
    """The comparisons with a contender that is installed; those without a peer come last, whatever their rank."""
    names = {
        comparison: {
            contender.name
            for contender in contenders_of(comparison)
            if installed((*contender.requires, *way_of(comparison).requires))
        }
        for comparison in chosen
    }
    compared = [each for each in names if "ours" in names[each] and len(names[each]) > 1]
    return compared + [each for each in names if names[each] and each not in compared]
