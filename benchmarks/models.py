"""Speed and memory of the models beside other libraries' ResNet-50.

    python -m benchmarks.models --device cpu|gpu [--budget SECONDS] [--out FILE.json] [--plot FILE.svg]

A comparison is one task (inference, or a training step: forward, backward, SGD with momentum) in one way (eager,
compiled, ...), batch and precision. Its contenders hold the same weights, and outputs that differ are an error. Each
runs in a process of its own; the processes take turns, round after round, each call being waited for. Reported are the
median and quartiles of a call, the first call (which compiles) apart, the ratio to the fastest peer round by round,
and the peak memory: growth of the resident set on a CPU, the allocator's peak on a card.

Precisions: "float32" is strict (TF32 off), "tf32" allows TF32 in convolutions and matrix products, "bfloat16" is
autocast in PyTorch and the compute dtype, beside float32 parameters, in Flax and Keras.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

SIDE, CLASSES = 224, 1000
LEARNING_RATE, MOMENTUM = 1e-4, 0.9


# --- The tables -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contender:
    """One ResNet-50 that can be run.

    Attributes:
        family: The framework it is a model of: a key of `ENGINES`.
        name: Whose it is; "ours" is this project's.
        variant: The network (`impls.config.VARIANTS`); only the same network is compared.
        requires: Modules that must be installed.
        build: Makes the model from a checkpoint of the variant and a precision.
        ways: Names of the ways in which it runs; None for all of its family.
    """

    family: str
    name: str
    variant: str
    requires: tuple[str, ...]
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
    """

    family: str
    name: str
    rank: int = 0
    tasks: tuple[str, ...] = ("inference", "training")
    devices: tuple[str, ...] = ("cpu", "gpu")
    requires: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ("float32", "tf32", "bfloat16")


@dataclass(frozen=True)
class Comparison:
    """What all contenders of one comparison do alike."""

    family: str
    variant: str
    way: str
    task: str
    batch: int
    precision: str

    def __str__(self) -> str:
        network = "" if self.variant == "v1.5" else f" {self.variant}"
        return f"{self.family}{network}, {self.way}, {self.task}, batch {self.batch}, {self.precision}"


def load_named(model: Any, weights: Path, dialect: str) -> Any:
    """Fill a PyTorch model of another library from a checkpoint."""
    import torch

    from weights_convert import load

    arrays = load(weights).to(dialect).arrays
    report = model.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()}, strict=False)
    missing = [name for name in report.missing_keys if not name.endswith("num_batches_tracked")]
    if missing or report.unexpected_keys:
        raise ValueError(f"weights do not fit: missing {missing}, unexpected {report.unexpected_keys}")
    return model


def torch_ours(weights: Path, variant: str, precision: str) -> Any:
    """Our PyTorch model."""
    from impls.torch import resnet50

    return resnet50(variant, weights=weights)


def torchvision_model(weights: Path, variant: str, precision: str) -> Any:
    """The model of torchvision."""
    from torchvision.models import resnet50

    return load_named(resnet50(), weights, "torchvision")


def timm_model(weights: Path, variant: str, precision: str) -> Any:
    """The model of timm."""
    import timm

    return load_named(timm.create_model("resnet50"), weights, "timm")


def transformers_model(weights: Path, variant: str, precision: str) -> Any:
    """The model of transformers, which returns its logits in an object, made to return the logits."""
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    class Logits(torch.nn.Module):
        def __init__(self, model: torch.nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.model(x).logits

    return Logits(load_named(ResNetForImageClassification(ResNetConfig(num_labels=CLASSES)), weights, "transformers"))


def flax_ours(weights: Path, variant: str, precision: str) -> Any:
    """Our Flax model."""
    from impls.flax import resnet50

    return resnet50(variant, weights=weights, compute_dtype="bfloat16" if precision == "bfloat16" else None)


def plain_jax(weights: Path, variant: str, precision: str) -> Any:
    """The arrays of the plain functional network below."""
    import jax.numpy as jnp

    from weights_convert import load

    return {name: jnp.asarray(array) for name, array in load(weights).to("flax").arrays.items()}


CONTENDERS: tuple[Contender, ...] = (
    Contender("torch", "ours", "v1.5", ("torch",), torch_ours),
    Contender("torch", "torchvision", "v1.5", ("torch", "torchvision"), torchvision_model),
    Contender("torch", "timm", "v1.5", ("torch", "timm"), timm_model),
    Contender("torch", "transformers", "v1.5", ("torch", "transformers"), transformers_model, ("eager",)),
    Contender("jax", "ours", "v1.5", ("jax", "flax", "optax"), flax_ours),
    Contender("jax", "plain functional", "v1.5", ("jax",), plain_jax),
)
"""Every contender; one whose modules are not installed is left out, and said to be."""

WAYS: tuple[Way, ...] = (
    Way("torch", "eager"),
    Way("jax", "jit"),
    Way("torch", "compiled"),
    Way("torch", "channels-last", rank=1),
    Way("jax", "jit, split once", rank=1),
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
    Way("jax", "eager", rank=2, tasks=("inference",)),
)
"""Every way, in the order in which a budget is spent on ways of one rank."""

BATCHES: Mapping[str, tuple[int, ...]] = {"cpu": (1, 8, 32), "gpu": (256, 32, 1)}
"""The batches of each device, the most important first."""

PRECISIONS: Mapping[str, tuple[str, ...]] = {"cpu": ("float32",), "gpu": ("float32", "tf32", "bfloat16")}
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


# --- A plain functional ResNet-50 in JAX: the peer of the Flax model --------------------------------------------------


def plain_resnet50(arrays: Mapping[str, Any], x: Any, train: bool, dtype: str) -> tuple[Any, dict[str, Any]]:
    """ResNet-50 v1.5 as a function of its arrays: logits, and the new running statistics.

    Args:
        arrays: By name in the "flax" dialect of `weights_convert`.
        x: Images (batch, height, width, channels).
        train: Whether to normalise with the statistics of the batch.
        dtype: Of convolutions; norms compute in float32.
    """
    import jax.numpy as jnp
    from jax import lax
    from jax.nn import relu

    statistics_now: dict[str, Any] = {}

    def conv(name: str, x: Any, stride: int = 1) -> Any:
        kernel = arrays[f"{name}.kernel"].astype(dtype)
        pad = (kernel.shape[0] // 2,) * 2
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), (pad, pad), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def norm(name: str, x: Any) -> Any:
        values = x.astype(jnp.float32)
        mean, variance = arrays[f"{name}.mean"], arrays[f"{name}.var"]
        if train:
            old_mean, old_variance, count = mean, variance, x.size // x.shape[-1]
            mean, variance = values.mean((0, 1, 2)), values.var((0, 1, 2))
            statistics_now[f"{name}.mean"] = 0.9 * old_mean + 0.1 * mean
            statistics_now[f"{name}.var"] = 0.9 * old_variance + 0.1 * variance * (count / (count - 1))
        factor = arrays[f"{name}.scale"] * lax.rsqrt(variance + 1e-5)
        return ((values - mean) * factor + arrays[f"{name}.bias"]).astype(dtype)

    def block(name: str, x: Any, stride: int) -> Any:
        y = relu(norm(f"{name}.bn1", conv(f"{name}.conv1", x)))
        y = relu(norm(f"{name}.bn2", conv(f"{name}.conv2", y, stride)))
        y = norm(f"{name}.bn3", conv(f"{name}.conv3", y))
        if f"{name}.downsample_conv.kernel" in arrays:
            x = norm(f"{name}.downsample_bn", conv(f"{name}.downsample_conv", x, stride))
        return relu(x + y)

    x = relu(norm("bn1", conv("conv1", x.astype(dtype), 2)))
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0)))
    for stage, depth in enumerate((3, 4, 6, 3), start=1):
        for index in range(depth):
            x = block(f"stage{stage}.{index}", x, 2 if stage > 1 and index == 0 else 1)
    x = x.mean((1, 2))
    return x @ arrays["fc.kernel"].astype(dtype) + arrays["fc.bias"].astype(dtype), statistics_now


def plain_step(trained: Any, running: Any, velocity: Any, x: Any, labels: Any, dtype: str) -> tuple[Any, ...]:
    """One step of SGD with momentum on the plain network: new arrays, statistics and velocity, and the loss."""
    import jax
    import jax.numpy as jnp

    def loss(trained: Any) -> tuple[Any, Any]:
        logits, statistics_now = plain_resnet50(trained | running, x, train=True, dtype=dtype)
        chances = jax.nn.log_softmax(logits.astype(jnp.float32))
        return -jnp.take_along_axis(chances, labels[:, None], axis=1).mean(), statistics_now

    (value, running), gradients = jax.value_and_grad(loss, has_aux=True)(trained)
    velocity = jax.tree.map(lambda old, gradient: MOMENTUM * old + gradient, velocity, gradients)
    trained = jax.tree.map(lambda array, update: array - LEARNING_RATE * update, trained, velocity)
    return trained, running, velocity, value


# --- Engines: one per framework, in a worker --------------------------------------------------------------------------


@dataclass(frozen=True)
class Inputs:
    """A batch, the same for all contenders: images (batch, 3, 224, 224) and labels (batch,) as NumPy arrays."""

    images: Any
    labels: Any

    @classmethod
    def draw(cls, batch: int) -> Inputs:
        """Normal values and random classes."""
        import numpy as np

        random = np.random.default_rng(0)
        images = random.standard_normal((batch, 3, SIDE, SIDE), dtype=np.float32)
        return cls(images, random.integers(0, CLASSES, batch))

    @property
    def channels_last(self) -> Any:
        """The images as (batch, 224, 224, 3)."""
        import numpy as np

        return np.ascontiguousarray(self.images.transpose(0, 2, 3, 1))


class TorchEngine:
    """Runs PyTorch models."""

    def __init__(self, device: str) -> None:
        import torch

        if device == "gpu" and not torch.cuda.is_available():
            raise RuntimeError("PyTorch sees no GPU")
        self.torch, self.device = torch, torch.device("cuda" if device == "gpu" else "cpu")
        torch.zeros(1, device=self.device)

    def prepare(self, contender: Contender, comparison: Comparison, weights: Path, folder: Path) -> Callable[[], Any]:
        """A function that does the task once and returns the logits, or the loss."""
        torch, way, inputs = self.torch, comparison.way, Inputs.draw(comparison.batch)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = comparison.precision != "float32"
        model = contender.build(weights, contender.variant, comparison.precision).to(self.device)
        if way == "ONNX Runtime":
            return self.onnx_session(model.eval(), inputs, folder / "model.onnx")
        layout = torch.channels_last if "channels-last" in way else torch.contiguous_format
        images = torch.from_numpy(inputs.images).to(self.device).contiguous(memory_format=layout)
        labels = torch.from_numpy(inputs.labels).to(self.device)
        model = model.to(memory_format=layout)
        run = torch.compile(model, dynamic=False) if "compiled" in way else model
        autocast = partial(torch.autocast, self.device.type, torch.bfloat16, enabled=comparison.precision == "bfloat16")
        if comparison.task == "inference":
            model.eval()

            def infer() -> Any:
                with torch.inference_mode(), autocast():
                    return run(images)

            return infer
        step = self.our_step(run) if contender.name == "ours" else self.plain_step(run)

        def train() -> Any:
            with autocast():
                return step(images, labels)

        return train

    def our_step(self, model: Any) -> Callable[[Any, Any], float]:
        """A training step as our users write it."""
        from impls.recipe import Recipe
        from impls.torch import Training

        return Training(model, Recipe(learning_rate=LEARNING_RATE, momentum=MOMENTUM)).step

    def plain_step(self, model: Any) -> Callable[[Any, Any], float]:
        """A training step as PyTorch's tutorials write it."""
        optimizer = self.torch.optim.SGD(model.parameters(), LEARNING_RATE, MOMENTUM)
        criterion = self.torch.nn.CrossEntropyLoss()
        model.train()

        def step(images: Any, labels: Any) -> float:
            optimizer.zero_grad()
            loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
            return loss.item()

        return step

    def onnx_session(self, model: Any, inputs: Inputs, path: Path) -> Callable[[], Any]:
        """The exported graph in ONNX Runtime."""
        import onnxruntime

        self.torch.onnx.export(model, (self.torch.from_numpy(inputs.images),), path, dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: inputs.images}
        return lambda: session.run(None, feed)[0]

    def wait(self, output: Any) -> Any:
        """Return the output once it is computed."""
        if self.device.type == "cuda":
            self.torch.cuda.synchronize()
        return output

    def to_numpy(self, output: Any) -> Any:
        """The output in float32."""
        return output.float().cpu().numpy() if isinstance(output, self.torch.Tensor) else output

    def forget_peak(self) -> None:
        """Let the peak of the card's allocator begin anew."""
        if self.device.type == "cuda":
            self.torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int | None:
        """The peak of the card's allocator, in bytes."""
        return self.torch.cuda.max_memory_allocated() if self.device.type == "cuda" else None

    def release(self) -> None:
        """Give memory that is not in use back to the card, where the next contender needs it."""
        if self.device.type == "cuda":
            self.torch.cuda.empty_cache()


class JaxEngine:
    """Runs Flax models and plain functions of JAX."""

    MATMUL_PRECISION: Mapping[str, str | None] = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": None}

    def __init__(self, device: str) -> None:
        import jax

        if device == "gpu" and jax.default_backend() != "gpu":
            raise RuntimeError("JAX sees no GPU")
        self.jax = jax
        jax.numpy.zeros(1).block_until_ready()

    def prepare(self, contender: Contender, comparison: Comparison, weights: Path, folder: Path) -> Callable[[], Any]:
        """A function that does the task once and returns the logits, or the loss."""
        self.jax.config.update("jax_default_matmul_precision", self.MATMUL_PRECISION[comparison.precision])
        inputs = Inputs.draw(comparison.batch)
        images, labels = self.jax.numpy.asarray(inputs.channels_last), self.jax.numpy.asarray(inputs.labels)
        model = contender.build(weights, contender.variant, comparison.precision)
        kind = "flax" if contender.name == "ours" else "plain"
        make = getattr(self, f"{kind}_{comparison.task}")
        return make(model, images, labels, comparison)

    def flax_inference(self, model: Any, images: Any, labels: Any, comparison: Comparison) -> Callable[[], Any]:
        """Our model, called as it is, under `nnx.jit`, or split once and called under `jax.jit`."""
        from flax import nnx

        model.eval()
        if comparison.way == "eager":
            return lambda: model(images)
        if comparison.way == "jit":
            jitted = nnx.jit(lambda model, x: model(x))
            return lambda: jitted(model, images)
        graph, state = nnx.split(model)
        pure = self.jax.jit(lambda state, x: nnx.merge(graph, state)(x))
        return lambda: pure(state, images)

    def flax_training(self, model: Any, images: Any, labels: Any, comparison: Comparison) -> Callable[[], Any]:
        """Our training step, or its function split once and called under `jax.jit` with donated arrays."""
        from flax import nnx

        from impls.flax import Training
        from impls.flax.training import take_step
        from impls.recipe import Recipe

        recipe = Recipe(learning_rate=LEARNING_RATE, momentum=MOMENTUM)
        training = Training(model, recipe)
        if comparison.way == "jit":
            return lambda: training.step(images, labels)
        model.train()
        graph, state = nnx.split((model, training.optimizer))

        def step(state: Any, images: Any, labels: Any) -> tuple[Any, Any]:
            model, optimizer = nnx.merge(graph, state)
            loss = take_step(model, optimizer, images, labels, recipe)
            return loss, nnx.state((model, optimizer))

        pure, held = self.jax.jit(step, donate_argnums=0), [state]

        def train() -> Any:
            loss, held[0] = pure(held[0], images, labels)
            return loss

        return train

    def plain_inference(self, arrays: Any, images: Any, labels: Any, comparison: Comparison) -> Callable[[], Any]:
        """The plain network."""
        dtype = "bfloat16" if comparison.precision == "bfloat16" else "float32"

        def network(arrays: Any, x: Any) -> Any:
            return plain_resnet50(arrays, x, train=False, dtype=dtype)[0]

        run = network if comparison.way == "eager" else self.jax.jit(network)
        return lambda: run(arrays, images)

    def plain_training(self, arrays: Any, images: Any, labels: Any, comparison: Comparison) -> Callable[[], Any]:
        """The plain network's step, its arrays donated."""
        dtype = "bfloat16" if comparison.precision == "bfloat16" else "float32"
        running = {name: array for name, array in arrays.items() if name.endswith((".mean", ".var"))}
        trained = {name: array for name, array in arrays.items() if name not in running}
        held = [trained, running, self.jax.tree.map(self.jax.numpy.zeros_like, trained)]
        step = self.jax.jit(partial(plain_step, dtype=dtype), donate_argnums=(0, 1, 2))

        def train() -> Any:
            *held[:], loss = step(*held, images, labels)
            return loss

        return train

    def wait(self, output: Any) -> Any:
        """Return the output once it is computed."""
        return self.jax.block_until_ready(output)

    def to_numpy(self, output: Any) -> Any:
        """The output in float32."""
        return self.jax.numpy.asarray(output, "float32")

    def forget_peak(self) -> None:
        """Nothing: JAX's allocator knows the peak since its start only, that of compiling among it."""

    def peak(self) -> int | None:
        """The peak of the card's allocator, in bytes."""
        known = self.jax.devices()[0].memory_stats() or {}
        return known.get("peak_bytes_in_use")

    def release(self) -> None:
        """Nothing: JAX's allocator keeps what it has."""


ENGINES: Mapping[str, Callable[[str], Any]] = {"torch": TorchEngine, "jax": JaxEngine}


# --- A worker: one contender of one comparison ------------------------------------------------------------------------


REMOVED = ("NVIDIA_TF32_OVERRIDE", "JAX_COMPILATION_CACHE_DIR", "JAX_DEFAULT_MATMUL_PRECISION", "JAX_ENABLE_X64")
"""Variables of the environment that would change a precision, or hide the cost of the first call."""


def environment(device: str, folder: Path) -> dict[str, str]:
    """Variables that a worker sets before it imports a framework."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    shared_card = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    no_card = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"} if device == "cpu" else {}
    return quiet | shared_card | no_card | {"TORCHINDUCTOR_CACHE_DIR": os.fspath(folder / "inductor")}


def resident(peak: bool = False) -> int | None:
    """Bytes of this process in memory, now or at most; None where there is no /proc."""
    key = "VmHWM:" if peak else "VmRSS:"
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1]) * 1024
    return None


def forget_resident_peak() -> None:
    """Let the highest resident set of this process begin anew."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


class Session:
    """What a worker does when asked: get ready, set up, run calls in turn."""

    def __init__(self, contender: Contender, comparison: Comparison, device: str, weights: Path, folder: Path) -> None:
        self.contender, self.comparison, self.device = contender, comparison, device
        self.weights, self.folder = weights, folder

    def start(self) -> None:
        """Import the framework and reach the device."""
        self.engine = ENGINES[self.comparison.family](self.device)
        self.before = resident()

    def set_up(self) -> dict[str, Any]:
        """Build the model, and run the first call, which compiles, and a second."""
        self.call = self.engine.prepare(self.contender, self.comparison, self.weights, self.folder)
        seconds, outputs = zip(*(self.timed() for _ in range(2)), strict=True)
        self.engine.forget_peak()
        forget_resident_peak()
        output = self.engine.to_numpy(outputs[0])
        logits = [float(output)] if self.comparison.task == "training" else [float(value) for value in output[0]]
        return {"first": seconds[0], "second": seconds[1], "output": logits}

    def timed(self) -> tuple[float, Any]:
        """Seconds of one call, and its output."""
        started = time.perf_counter()
        output = self.engine.wait(self.call())
        return time.perf_counter() - started, output

    def turn(self, calls: int, warm_up: bool) -> list[float]:
        """Seconds of each call, after one that is not counted."""
        seconds = [self.timed()[0] for _ in range(calls + warm_up)][warm_up:]
        self.engine.release()
        return seconds

    def memory(self) -> int | None:
        """Peak bytes since the first calls: the allocator's on a card, growth of the resident set on a CPU."""
        if self.device == "gpu":
            return self.engine.peak()
        peak = resident(peak=True)
        return None if peak is None or self.before is None else peak - self.before


def serve(connection: Connection, session: Session) -> None:
    """Answer requests until None comes; a failure is an answer, too."""
    log = os.open(session.folder / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for name in REMOVED:
        os.environ.pop(name, None)
    os.environ.update(environment(session.device, session.folder))
    with contextlib.suppress(EOFError):  # the parent is gone
        for request, arguments in iter(connection.recv, None):
            try:
                connection.send((True, getattr(session, request)(*arguments)))
            except Exception as error:
                traceback.print_exc()
                lines = str(error).strip().splitlines() or [""]
                connection.send((False, f"{type(error).__name__}: {lines[0][:200]}"))
    os._exit(0)  # frameworks take seconds to say goodbye


LONGEST_CALL = 1800.0
"""Seconds after which a worker that does not answer is given up."""


class WorkerError(Exception):
    """A worker failed, ended or took too long."""


class Worker:
    """The parent's end of a worker."""

    def __init__(self, session: Session) -> None:
        self.contender, self.folder = session.contender, session.folder
        session.folder.mkdir(parents=True)
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, session))
        self.process.start()
        other.close()

    def send(self, request: str, *arguments: Any) -> None:
        """Ask for something; `receive` waits for it."""
        with contextlib.suppress(OSError):
            self.connection.send((request, arguments))

    def receive(self, limit: float) -> Any:
        """The answer to the oldest request that has none.

        Raises:
            WorkerError: If the request failed, the worker ended, or the time is over.
        """
        try:
            if not self.connection.poll(limit := max(0.0, min(limit, LONGEST_CALL))):
                raise WorkerError(f"no answer within {limit:.0f} s")
            worked, answer = self.connection.recv()
        except (EOFError, OSError):
            lines = (self.folder / "log").read_text(errors="replace").strip().splitlines()
            raise WorkerError(f"the process ended: {(lines or ['no message'])[-1][:200]}") from None
        if not worked:
            raise WorkerError(answer)
        return answer

    def wait_until_idle(self, limit: float) -> None:
        """Wait for the answer to the oldest request, and leave it for `receive`."""
        with contextlib.suppress(OSError):
            self.connection.poll(max(0.0, limit))

    def end(self) -> None:
        """Let the process end; kill it if it does not."""
        with contextlib.suppress(OSError):
            self.connection.send(None)
        self.process.join(1)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.connection.close()


# --- Measuring --------------------------------------------------------------------------------------------------------


@dataclass
class Budget:
    """Time that may be used, and how it was used: the last cost of each kind of comparison foretells the next.

    Example:
        >>> budget = Budget(100.0, clock=iter([0.0, 0.0, 70.0]).__next__)
        >>> budget.costs["eager"] = 40.0
        >>> budget.affords("eager"), budget.affords("eager")  # 100 s are left, then 30 s
        (True, False)
    """

    seconds: float
    clock: Callable[[], float] = time.monotonic
    costs: dict[Any, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.started = self.clock()

    def left(self) -> float:
        """Seconds that are left."""
        return self.started + self.seconds - self.clock()

    def affords(self, kind: Any) -> bool:
        """Whether something of a kind may be begun."""
        return self.left() > self.costs.get(kind, 0.0)


@dataclass
class Row:
    """Measurements of one contender in one comparison.

    Attributes:
        first: Seconds of the first call.
        rounds: Seconds of the calls of each round.
        memory: Peak bytes.
        output: Logits of the first image, or the loss of the first step.
        failure: Why there are no measurements.
    """

    contender: Contender
    first: float | None = None
    second: float = 0.0
    rounds: list[list[float]] = field(default_factory=list)
    memory: int | None = None
    output: list[float] = field(default_factory=list)
    failure: str | None = None

    @property
    def calls(self) -> list[float]:
        """Seconds of all calls."""
        return [seconds for each in self.rounds for seconds in each]


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The lower quartile, the median and the upper quartile.

    Example:
        >>> quartiles([4.0, 1.0, 2.0, 3.0, 5.0])
        (2.0, 3.0, 4.0)
    """
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def best_peer(rows: Sequence[Row]) -> Row | None:
    """The row that is not ours with the smallest median; None if no peer was measured."""
    peers = [row for row in rows if row.contender.name != "ours" and row.rounds]
    return min(peers, key=lambda row: statistics.median(row.calls), default=None)


def ratios(row: Row, peer: Row) -> list[float]:
    """The ratio of medians in each round in which both ran: a drift of the machine's speed cancels out."""
    pairs = zip(row.rounds, peer.rounds, strict=False)  # a budget may have cut a round short
    return [statistics.median(mine) / statistics.median(other) for mine, other in pairs]


def difference(output: Sequence[float], reference: Sequence[float]) -> float:
    """The relative L2 difference of two outputs."""
    distance = sum((a - b) ** 2 for a, b in zip(output, reference, strict=True)) ** 0.5
    return distance / sum(b**2 for b in reference) ** 0.5


SAME_OUTPUT: Mapping[str, float] = {"float32": 1e-3, "tf32": 3e-2, "bfloat16": 0.2}
"""Outputs of two correct contenders differ by less; other networks with the same weights differ by more."""


@dataclass(frozen=True)
class Plan:
    """How long and where to measure.

    Attributes:
        device: "cpu" or "gpu".
        rounds: At most this many in a comparison.
        seconds: No round is begun later than this after the first, once there are three.
        folder: Holds weights and the workers' files.
    """

    device: str
    rounds: int
    seconds: float
    folder: Path

    @property
    def side_by_side(self) -> bool:
        """Whether workers of the next comparison start, and compilers of one run, at the same time."""
        return self.device == "gpu"


def weights_file(folder: Path, variant: str) -> Path:
    """A checkpoint with random weights whose activations keep their scale, written once."""
    path = folder / f"{variant}.safetensors"
    if not path.exists():
        from conformance.cases.weights import synthetic_weights
        from impls.config import VARIANTS

        synthetic_weights(VARIANTS[variant], seed=0).save(path)
    return path


def start_workers(comparison: Comparison, plan: Plan) -> list[Worker]:
    """Workers for all contenders that are installed; they begin to import their framework."""
    weights = weights_file(plan.folder, comparison.variant)
    workers = []
    for contender in contenders_of(comparison):
        if installed((*contender.requires, *way_of(comparison).requires)):
            folder = Path(tempfile.mkdtemp(dir=plan.folder)) / "worker"
            workers.append(Worker(Session(contender, comparison, plan.device, weights, folder)))
            workers[-1].send("start")
    return workers


class Group:
    """The workers of one comparison, and what was measured of each; one that fails drops out."""

    def __init__(self, comparison: Comparison, plan: Plan) -> None:
        self.comparison, self.plan = comparison, plan
        self.workers = start_workers(comparison, plan)
        self.rows = [Row(worker.contender) for worker in self.workers]

    def ask(self, budget: Budget, request: str | None, *arguments: Any, together: bool = False) -> Iterator[Any]:
        """Pairs of a row and its worker's answer, one worker after the other, or all at work together.

        A request of None is one that was sent before.
        """
        active = [pair for pair in zip(self.rows, self.workers, strict=True) if pair[0].failure is None]
        for _, worker in active if together and request else ():
            worker.send(request, *arguments)
        for row, worker in active:
            if request and not together:
                worker.send(request, *arguments)
            try:
                yield row, worker.receive(budget.left())
            except WorkerError as error:
                row.failure = str(error)

    def measure(self, budget: Budget, following: Group | None) -> None:
        """Set all contenders up, then let them take turns while no other process works."""
        together = self.plan.side_by_side and self.comparison.family != "jax"  # XLA times kernels as it compiles
        list(self.ask(budget, None))
        for row, answer in self.ask(budget, "set_up", together=together):
            row.first, row.second, row.output = answer["first"], answer["second"], answer["output"]
        check_outputs(self.rows, self.comparison.precision)
        for worker in following.workers if following else ():
            worker.wait_until_idle(budget.left())
        calls = calls_per_turn([row.second for row in self.rows if row.failure is None])
        warm_up = self.plan.device == "gpu" or calls > 1
        started = time.monotonic()
        for count in range(self.plan.rounds):
            enough = count >= FEWEST_ROUNDS and time.monotonic() - started > self.plan.seconds
            if enough or budget.left() <= 0 or all(row.failure for row in self.rows):
                break
            for row, seconds in self.ask(budget, "turn", calls, warm_up):
                row.rounds.append(seconds)
        for row, memory in self.ask(budget, "memory"):
            row.memory = memory

    def end(self) -> None:
        """End all workers."""
        for worker in self.workers:
            worker.end()


FEWEST_ROUNDS, TURN_SECONDS, MOST_CALLS = 3, 0.15, 20


def calls_per_turn(seconds: Sequence[float]) -> int:
    """The number of calls that makes a turn of the slowest contender last some 0.15 s."""
    return max(1, min(MOST_CALLS, round(TURN_SECONDS / max(seconds, default=TURN_SECONDS))))


def check_outputs(rows: Sequence[Row], precision: str) -> None:
    """Mark the rows whose output is not that of the first: they compute another function."""
    working = [row for row in rows if row.failure is None]
    for row in working[1:]:
        error = difference(row.output, working[0].output)
        if not error < SAME_OUTPUT[precision]:
            row.failure = f"its output differs from that of {working[0].contender.name} by {error:.1e}"


# --- Reporting --------------------------------------------------------------------------------------------------------


def row_record(row: Row, peer: Row | None, comparison: Comparison, device: str) -> dict[str, Any]:
    """One row as JSON holds it."""
    record: dict[str, Any] = {"name": row.contender.name}
    if row.failure is not None:
        record["failure"] = row.failure
    if row.rounds:
        low, middle, high = quartiles(row.calls)
        record |= {"first_call_s": row.first, "calls": len(row.calls), "rounds": len(row.rounds)}
        record |= {"median_s": middle, "quartiles_s": [low, high], "memory_bytes": row.memory}
        if device == "gpu":
            record["images_per_second"] = comparison.batch / middle
        if peer is not None:
            low, middle, high = quartiles(ratios(row, peer))
            record |= {"ratio": middle, "ratio_quartiles": [low, high]}
    return record


def comparison_record(comparison: Comparison, rows: Sequence[Row], device: str) -> dict[str, Any]:
    """One comparison as JSON holds it: what was compared, the best peer, and a record for each contender."""
    peer = best_peer(rows)
    return asdict(comparison) | {
        "best_peer": peer.contender.name if peer else None,
        "rows": [row_record(row, peer, comparison, device) for row in rows],
    }


def machine(device: str) -> dict[str, Any]:
    """The processor, and the card where one is used."""
    facts: dict[str, Any] = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        facts["cpu"] = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    if device == "gpu":
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        with contextlib.suppress(OSError):
            fields = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip().split(", ")
            facts |= dict(zip(("card", "driver", "card_memory"), fields, strict=False))
    return facts


PACKAGES = (
    *("torch", "torchvision", "timm", "transformers", "jax", "jaxlib", "flax", "optax", "numpy"),
    *("keras", "keras-hub", "tensorflow", "onnx", "onnxruntime"),
)


def versions() -> dict[str, str]:
    """The releases of Python and of the packages that are installed."""
    known = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            known[package] = importlib.metadata.version(package)
    return known


def not_installed(chosen: Iterable[Comparison]) -> list[dict[str, Any]]:
    """Contenders and ways that are left out since modules of theirs are missing."""
    needs: dict[tuple[str, str, str], list[str]] = {}
    for comparison in chosen:
        for contender in contenders_of(comparison):
            needs[contender.family, contender.name, "every way"] = missing_modules(contender.requires)
        way = way_of(comparison)
        needs[way.family, "every contender", way.name] = missing_modules(way.requires)
    return [
        {"family": family, "name": name, "way": way, "missing": missing}
        for (family, name, way), missing in needs.items()
        if missing
    ]


def write_atomically(path: Path, document: Mapping[str, Any]) -> None:
    """Write JSON beside the target, then rename it into place: a kill leaves the old file or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(document, indent=1) + "\n")
    temporary.replace(path)


def table(document: Mapping[str, Any]) -> Iterator[str]:
    """The lines of the table in Markdown."""
    card = document["device"] == "gpu"
    yield "| family, way | task | batch | precision | whose | ratio (quartiles) | first call | peak memory |" + (
        " images/s (quartiles) |" if card else ""
    )
    yield "|---|---|---|---|---|---|---|---|" + ("---|" if card else "")
    for comparison in document["comparisons"]:
        network = "" if comparison["variant"] == "v1.5" else f" ({comparison['variant']})"
        head = f"| {comparison['family']}{network}, {comparison['way']} | {comparison['task']} | {comparison['batch']} "
        for row in comparison["rows"]:
            yield f"{head}| {comparison['precision']} | {row['name']} | {' | '.join(cells(row, comparison, card))} |"


def cells(row: Mapping[str, Any], comparison: Mapping[str, Any], card: bool) -> list[str]:
    """The measurements of one row as text."""
    if "median_s" not in row:
        return [row.get("failure", "not measured"), "", "", *([""] if card else [])]
    ratio = "{:.2f} ({:.2f} to {:.2f})".format(row["ratio"], *row["ratio_quartiles"]) if "ratio" in row else "no peer"
    memory = "" if row["memory_bytes"] is None else f"{row['memory_bytes'] / 2**20:.0f} MiB"
    rate = [
        "{:.0f} ({:.0f} to {:.0f})".format(
            row["images_per_second"], *sorted(comparison["batch"] / seconds for seconds in row["quartiles_s"])
        )
        for _ in range(card)
    ]
    return [ratio + (f"; {row['failure']}" if "failure" in row else ""), f"{row['first_call_s']:.1f} s", memory, *rate]


def plot(document: Mapping[str, Any], path: Path) -> None:
    """Draw our ratio to the best peer in each comparison, with its quartiles."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    points = [
        (comparison, row)
        for comparison in reversed(document["comparisons"])
        for row in comparison["rows"]
        if row["name"] == "ours" and "ratio" in row
    ]
    figure, axes = pyplot.subplots(figsize=(9, 1.2 + 0.25 * len(points)), layout="constrained")
    for height, (_, row) in enumerate(points):
        axes.plot(row["ratio_quartiles"], [height, height], color="tab:blue", linewidth=2)
        axes.plot(row["ratio"], height, "o", color="tab:blue")
    names = ("family", "way", "task", "batch", "precision")
    axes.set_yticks(range(len(points)), [", ".join(str(each[name]) for name in names) for each, _ in points], size=7)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xlabel("seconds of ours / seconds of the best peer, median and quartiles of rounds")
    axes.set_title(document["machine"].get("card", document["machine"]["cpu"]), size=9)
    figure.savefig(path)
    pyplot.close(figure)


# --- The command ------------------------------------------------------------------------------------------------------


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.models", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def names(text: str) -> list[str]:
        return [name.strip() for name in text.split(";" if ";" in text else ",")]

    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="begin nothing after this; default: no limit")
    parser.add_argument("--batches", type=lambda text: [int(each) for each in text.split(",")], metavar="N,N")
    parser.add_argument("--families", type=names, default=list(ENGINES), help=f"of {', '.join(ENGINES)}")
    parser.add_argument("--ways", type=names, help="separated by commas, or by semicolons: 'eager;jit, split once'")
    parser.add_argument("--tasks", type=names, default=list(TASKS), help=f"of {', '.join(TASKS)}")
    parser.add_argument(
        "--precisions", type=names, help=f"of {', '.join(SAME_OUTPUT)}; default: float32, on a card all"
    )
    parser.add_argument("--rounds", type=int, default=15, help="of a comparison, at most")
    parser.add_argument("--seconds", type=float, help="of a comparison's rounds, about; default: 60, on a card 3")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="written anew after each comparison")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg")
    options = parser.parse_args(arguments)
    options.batches = options.batches or BATCHES[options.device]
    options.precisions = options.precisions or PRECISIONS[options.device]
    options.seconds = options.seconds or {"cpu": 60.0, "gpu": 3.0}[options.device]
    known = {"families": ENGINES, "tasks": TASKS, "precisions": SAME_OUTPUT, "ways": {way.name for way in WAYS}}
    for option, values in known.items():
        if unknown := set(getattr(options, option) or ()) - set(values):
            parser.error(f"--{option}: unknown {', '.join(sorted(unknown))}; known are {', '.join(values)}")
    return options


def run(
    chosen: Sequence[Comparison], plan: Plan, budget: Budget, report: Callable[[Comparison, list[Row]], None]
) -> list[Comparison]:
    """Measure the comparisons in order, each that the budget affords; return those that were left out."""
    left_out: list[Comparison] = []
    started: dict[Comparison, Group] = {}

    def kind(comparison: Comparison) -> tuple[str, str, str]:
        return comparison.family, comparison.way, comparison.task

    try:
        for position, comparison in enumerate(chosen):
            if not budget.affords(kind(comparison)):
                left_out.append(comparison)
                continue
            before = budget.left()
            group = started.pop(comparison, None) or Group(comparison, plan)
            started[comparison] = group  # for the end, should an exception come
            following = None
            if plan.side_by_side and position + 1 < len(chosen) and budget.affords(kind(chosen[position + 1])):
                following = started.get(chosen[position + 1]) or Group(chosen[position + 1], plan)
                started[chosen[position + 1]] = following
            group.measure(budget, following)
            started.pop(comparison).end()
            budget.costs[kind(comparison)] = before - budget.left()
            report(comparison, group.rows)
    finally:
        for group in started.values():
            group.end()
    return left_out


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table, and write what was asked for."""
    options = parse(arguments)
    chosen = comparisons(
        options.device, options.batches, options.precisions, options.tasks, options.families, options.ways
    )
    missing = not_installed(chosen)
    document: dict[str, Any] = {
        "command": ["python", "-m", "benchmarks.models", *(sys.argv[1:] if arguments is None else arguments)],
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "device": options.device,
        "machine": machine(options.device),
        "versions": versions(),
        "complete": False,
        "not_installed": missing,
        "left_out": [],
        "comparisons": [],
    }
    for each in missing:
        print(f"left out: {each['family']}, {each['name']}, {each['way']}: {', '.join(each['missing'])} not installed")

    def report(comparison: Comparison, rows: list[Row]) -> None:
        document["comparisons"].append(comparison_record(comparison, rows, options.device))
        if options.out:
            write_atomically(options.out, document)
        summary = ", ".join(
            f"{row['name']} {row['ratio']:.2f}" if "ratio" in row else f"{row['name']}: {row.get('failure', 'alone')}"
            for row in document["comparisons"][-1]["rows"]
        )
        print(f"{comparison}: {summary}", flush=True)

    budget = Budget(float("inf") if options.budget is None else options.budget)
    with tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as folder:
        plan = Plan(options.device, options.rounds, options.seconds, Path(folder))
        runnable = [each for each in chosen if runs_here(each)]
        left_out = run(runnable, plan, budget, report)
    document |= {"complete": True, "left_out": [str(each) for each in left_out]}
    if options.out:
        write_atomically(options.out, document)
    print("", *table(document), sep="\n")
    for each in left_out:
        print(f"left out for want of time: {each}")
    if options.plot:
        plot(document, options.plot)


def runs_here(comparison: Comparison) -> bool:
    """Whether any contender of a comparison is installed."""
    way = way_of(comparison)
    return any(installed((*each.requires, *way.requires)) for each in contenders_of(comparison))


if __name__ == "__main__":
    main()
