"""Adapters of PyTorch modules as they are: eager, compiled and scripted ones.

Activations are seen through forward hooks, which copy at once what they see: an operation in hook that follows cannot
change what was recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from conformance.run.adapters.torch import TorchAdapter, to_numpy
from conformance.run.candidates.hooks import Hook, find_hooks
from conformance.run.candidates.naming import read_names
from conformance.run.candidates.options import Options, select_output
from conformance.run.candidates.repeat import examine
from conformance.run.candidates.survey import Survey, Unfit
from conformance.run.capabilities import Arrays, ArrayTap, Capability, ReadState, TakeStep
from impls.config import ResNetConfig
from impls.recipe import Recipe
from impls.torch import training
from weights_convert import Checkpoint, TrainingState, load
from weights_convert.dialects import find_dialect
from weights_convert.sources import Source
from weights_convert.table import RUNNING_STATISTICS

if TYPE_CHECKING:
    from conformance.run.candidates.kinds import Kind

TensorTap = Callable[[str, Tensor], Tensor | None]
"""Sees an activation; the tensor that it returns, if any, takes its hook."""


class TorchCandidate(TorchAdapter):
    """A `torch.nn.Module`, run as it is.

    Args:
        module: The module.
        options: What the user says about it.

    Attributes:
        cannot: What it cannot do, by what is asked for ("train", "steps"), each with the reason.
        not_shown: Arrays that it cannot show, by canonical name, each with the reason.
    """

    kind: Kind
    packages: tuple[str, ...]

    def __init__(self, module: Any, options: Options) -> None:
        super().__init__()
        self.module, self.options = module, options
        self.cannot: dict[str, str] = {}
        self.not_shown: dict[str, str] = {}
        self.hooks: list[Hook] = []

    @property
    def inner(self) -> nn.Module:
        """The module whose arrays and layers are seen."""
        module: nn.Module = self.module
        return module

    @property
    def capabilities(self) -> frozenset[Capability]:  # type: ignore[override]  # of this model, not of the class
        """What this model can do."""
        can = {Capability.PROBE, Capability.TAP, Capability.DIFFERENTIATE, Capability.TRAIN}
        return frozenset(can - ({Capability.TRAIN} if "steps" in self.cannot else set()))

    def prepare(self, device: str, precision: str) -> str:
        """IEEE products, deterministic algorithms where there are any, no gradients; the module's dtype."""
        name = super().prepare(device, precision)
        torch.set_deterministic_debug_mode("warn")
        self.module.to(device=self.device, dtype=getattr(torch, precision))
        return name

    def survey(self) -> Survey:
        """Describe the module without running it."""
        arrays = {name: tensor for name, tensor in self.inner.state_dict().items() if isinstance(tensor, Tensor)}
        if self.options.own_weights:
            from safetensors.torch import save_file

            save_file(
                {name: tensor.cpu().contiguous().clone() for name, tensor in arrays.items()}, self.options.own_weights
            )
        shapes = {name: tuple(tensor.shape) for name, tensor in arrays.items()}
        facts = model_facts(self.inner)
        return Survey(self.kind.name, "torch", shapes, self.packages, facts, weights=self.options.own_weights)

    def build(self, config: ResNetConfig, weights: Source) -> None:
        """Give the module the weights, and find its layers."""
        self.config, state = config, self.inner.state_dict()
        self.naming = read_names(state, "torch", Path(self.options.names) if self.options.names else None)
        self.put(load(weights).to("canonical").arrays)
        self.initial_state = {name: tensor.clone() for name, tensor in state.items() if isinstance(tensor, Tensor)}
        self.trained_since = False
        self.hooks, self.not_shown = find_hooks(self.inner, self.naming, config)
        parameters = dict(self.inner.named_parameters())
        canonical = self.naming.canonical_names()
        self.trained = {canonical[name]: p for name, p in parameters.items() if name in canonical and p.requires_grad}
        frozen = [canonical[name] for name, p in parameters.items() if name in canonical and not p.requires_grad]
        self.not_shown |= {f"gradient.{name}": "it is frozen (requires_grad is False)" for name in frozen}
        if frozen:
            self.cannot["steps"] = (
                f"{len(frozen)} parameters are frozen (requires_grad is False), {frozen[0]} among them"
            )

    @torch.no_grad()
    def put(self, arrays: Arrays) -> None:
        """Set the module's arrays; one that the network lacks, or that has another shape, stays as it is."""
        for name, tensor in self.inner.state_dict().items():
            canonical = self.naming.arrays[name][0] if name in self.naming.arrays else ""
            if canonical in arrays and tensor.shape == arrays[canonical].shape:
                tensor.copy_(torch.from_numpy(np.array(arrays[canonical])))

    def parameters(self) -> Mapping[str, tuple[int, ...]]:
        """The module's own state_dict, by canonical name where it is known."""
        return self.naming.shapes({name: tuple(tensor.shape) for name, tensor in self.inner.state_dict().items()})

    def canonical_state(self) -> dict[str, np.ndarray]:
        """Copies of all arrays that are read, by canonical name."""
        state = self.inner.state_dict()
        return {canonical: to_numpy(state[name]) for name, canonical in self.naming.canonical_names().items()}

    @contextmanager
    def put_back(self, train: bool) -> Iterator[None]:
        """Set the buffers, which a train-mode run updates, to what they were; in inference mode none may change."""
        before = {name: buffer.clone() for name, buffer in self.inner.named_buffers()} if train else {}
        try:
            yield
        finally:
            with torch.no_grad():
                for name, buffer in self.inner.named_buffers():
                    if name in before:
                        buffer.copy_(before[name])

    def running_statistics(self) -> dict[str, np.ndarray]:
        """Copies of the running statistics by canonical name."""
        return {name: a for name, a in self.canonical_state().items() if name.endswith(RUNNING_STATISTICS)}

    def examine(self, images: np.ndarray) -> None:
        """Run the smallest input twice; see `repeat.examine`. What is never called cannot be shown."""
        called: set[str] = set()
        examine(self, images, called)
        for hook in self.hooks:
            if hook.name not in called:
                self.not_shown[hook.name] = f"its module, {hook.path}, is not called"
        self.hooks = [hook for hook in self.hooks if hook.name in called]

    def record(self, images: np.ndarray, train: bool, layers: bool) -> Arrays:
        """Return activations, and running statistics after a train-mode run."""
        activations: dict[str, np.ndarray] = {}

        def keep(name: str, value: Tensor) -> None:
            activations[name] = to_numpy(value)

        self.set_mode(train)
        with self.put_back(train):
            self.forward(self.tensor(images), keep, [hook for hook in self.hooks if layers or not hook.inside])
            return activations | (self.running_statistics() if train else {})

    def run_tapped(self, images: np.ndarray, train: bool, tap: ArrayTap) -> Arrays:
        """Pass every activation through a tap; return the running statistics after a train-mode run."""

        def pass_on(name: str, value: Tensor) -> Tensor | None:
            replacement = tap(name, to_numpy(value))
            return None if replacement is None else self.tensor(replacement)

        self.set_mode(train)
        with self.put_back(train):
            self.forward(self.tensor(images), pass_on, self.hooks)
            return self.running_statistics() if train else {}

    @contextmanager
    def leaving_as_it_was(self) -> Iterator[None]:
        """Put back the module's tensors, modes and gradients, the switches of PyTorch and its random state."""
        tensors = list({id(t): t for t in (*self.module.parameters(), *self.module.buffers())}.values())
        contents = [(tensor, tensor.data, tensor.data.clone()) for tensor in tensors]
        gradients = [(tensor, tensor.grad, tensor.grad.data) for tensor in tensors if tensor.grad is not None]
        buffers = [(module, dict(module._buffers)) for module in self.module.modules()]
        modes = [(module, module.training) for module in self.module.modules()]
        cudnn: Any = torch.backends.cudnn
        switches = (cudnn.conv, torch.backends.cuda.matmul)
        grad = torch.is_grad_enabled()
        precisions = [switch.fp32_precision for switch in switches]
        deterministic = torch.get_deterministic_debug_mode()
        try:
            with torch.random.fork_rng():
                yield
        finally:
            with torch.no_grad():
                for tensor, data, values in contents:
                    data.copy_(values)
                    tensor.grad = None
                    tensor.data = data
                for tensor, gradient, data in gradients:
                    gradient.data = data
                    tensor.grad = gradient
            for module, own in buffers:
                module._buffers.update(own)
            for module, mode in modes:
                module.training = mode
            for switch, precision in zip(switches, precisions, strict=True):
                switch.fp32_precision = precision
            torch.set_deterministic_debug_mode(deterministic)
            torch.set_grad_enabled(grad)

    @torch.no_grad()
    def restore(self) -> None:
        """Set all arrays to what they were before training."""
        if self.trained_since:
            for name, tensor in self.inner.state_dict().items():
                if name in self.initial_state:
                    tensor.copy_(self.initial_state[name])
        self.trained_since = False

    def set_mode(self, train: bool) -> None:
        """Ask for train or inference mode, with the weights that the module was given."""
        self.restore()
        self.module.train(train)

    def forward(self, images: Tensor, tap: TensorTap, hooks: list[Hook]) -> Tensor:
        """Run the module; its activations at some hooks pass the tap, and its logits, which cannot be replaced."""
        laid_out = images.permute(0, 2, 3, 1) if self.options.layout == "NHWC" else images
        handles = [hook.attach(tap) for hook in hooks]
        try:
            returned = self.module(laid_out)
        except RuntimeError as error:
            raise Unfit(
                f"its forward pass raised {type(error).__name__} on images of shape {tuple(laid_out.shape)}: {error}"
                " (--layout NHWC gives them the other way round)" * (self.options.layout == "")
            ) from error
        finally:
            for handle in handles:
                handle.remove()
        logits: Tensor = select_output(returned, self.options.output, lambda value: isinstance(value, Tensor))
        tap("logits" if self.config.num_classes else "pool", logits)
        return logits

    def gradients(
        self, images: np.ndarray, labels: np.ndarray, recipe: Recipe, train: bool, activations: Arrays | None = None
    ) -> tuple[float, Arrays]:
        """Differentiate by autograd; parameters that are frozen are left out.

        Raises:
            Unfit: If no gradient reaches the logits.
        """
        inputs = self.tensor(images).requires_grad_()
        self.set_mode(train)

        def straight_through(name: str, value: Tensor) -> Tensor | None:
            if activations is None or name == "logits":
                return None
            return self.tensor(activations[name]) + (value - value.detach())

        hooks = self.hooks if activations is not None else []
        with torch.enable_grad(), self.put_back(train):
            logits = self.forward(inputs, straight_through, hooks)
            value = training.loss(logits, self.on_device(labels), recipe)
            if not value.requires_grad:
                raise Unfit("its logits carry no gradient: a torch.no_grad(), detach() or frozen input is on the way")
            wanted = [*self.trained.values(), inputs]
            gradients = torch.autograd.grad(value, wanted, materialize_grads=True)  # zeros where none arrives
        named = zip([*self.trained, "input"], gradients, strict=True)
        return value.item(), {name: to_numpy(gradient) for name, gradient in named}

    def training(self, recipe: Recipe) -> tuple[TakeStep, ReadState]:
        """Train the module by PyTorch's own optimizer, set up as for our own model; the next run starts afresh."""
        self.restore()
        run = training.Training(LogitsOnly(self), recipe)  # type: ignore[arg-type]  # any module will do
        canonical = {f"module.{name}": known for name, known in self.naming.canonical_names().items()}

        @torch.enable_grad()
        def step(images: np.ndarray, labels: np.ndarray) -> float:
            self.trained_since = True
            loss: float = run.step(self.tensor(images), self.on_device(labels))
            return loss

        def checkpoint(tensors: Mapping[str, Tensor]) -> Checkpoint:
            arrays = {canonical[name]: to_numpy(tensor) for name, tensor in tensors.items() if name in canonical}
            return Checkpoint(arrays, find_dialect("canonical"), self.config)

        def read() -> TrainingState:
            slots = {slot: checkpoint(tensors).arrays for slot, tensors in run.slots().items()}
            return TrainingState.of(checkpoint(run.model.state_dict()), slots, run.steps, recipe)

        return step, read

    def network(self) -> Any:
        """Not used: the module is not built here."""
        raise NotImplementedError


class LogitsOnly(nn.Module):
    """A module that returns the candidate's logits alone, which is what training needs."""

    def __init__(self, candidate: TorchCandidate) -> None:
        super().__init__()
        self.candidate, self.module = candidate, candidate.inner

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of NCHW images."""
        return self.candidate.forward(images, lambda name, value: None, [])


def model_facts(module: nn.Module) -> dict[str, Any]:
    """Return the model's own configuration, as transformers' models have it."""
    to_dict = getattr(getattr(module, "config", None), "to_dict", None)
    return dict(to_dict()) if to_dict is not None else {}


class Compiled(TorchCandidate):
    """A module behind `torch.compile`: its graph shows the logits alone; layer by layer it is run eagerly."""

    @property
    def inner(self) -> nn.Module:
        """The module that was compiled."""
        module: nn.Module = self.module._orig_mod
        return module

    def record(self, images: np.ndarray, train: bool, layers: bool) -> Arrays:
        """Return the logits of the compiled graph, and running statistics after a train-mode run."""
        kept, self.hooks = self.hooks, []
        try:
            return super().record(images, train, layers)
        finally:
            self.hooks = kept

    def run_tapped(self, images: np.ndarray, train: bool, tap: ArrayTap) -> Arrays:
        """Pass activations through a tap eagerly."""
        with torch.compiler.set_stance("force_eager"):
            return super().run_tapped(images, train, tap)


class Scripted(TorchCandidate):
    """A module of TorchScript, which shows its logits alone."""

    @property
    def capabilities(self) -> frozenset[Capability]:  # type: ignore[override]  # of this model, not of the class
        """All but taps."""
        return super().capabilities - {Capability.TAP}

    def build(self, config: ResNetConfig, weights: Source) -> None:
        """Give the module the weights."""
        super().build(config, weights)
        names = [*(hook.name for hook in self.hooks), *(name for name in self.not_shown if "gradient." not in name)]
        self.not_shown |= dict.fromkeys(names, self.kind.activations)
        self.hooks = []
