"""Adapters of PyTorch modules as they are: eager, compiled and scripted ones.

Activations are seen through forward hooks, which copy at once what they see: an operation in place that follows cannot
change what was recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from conformance.run.adapters.torch import TorchAdapter, to_numpy
from conformance.run.candidates.candidate import ModelCandidate
from conformance.run.candidates.hooks import Hook, untapped
from conformance.run.candidates.options import select_output
from conformance.run.candidates.survey import Unfit
from conformance.run.capabilities import Arrays, ArrayTap, Capability, ReadState, TakeStep
from impls.config import ResNetConfig
from impls.recipe import Recipe
from impls.torch import training
from weights_convert import TrainingState
from weights_convert.shapes import Shape
from weights_convert.sources import Source

TensorTap = Callable[[str, Tensor], Tensor | None]
"""Sees an activation; the tensor that it returns, if any, takes its place."""


class TorchCandidate(ModelCandidate, TorchAdapter):
    """A `torch.nn.Module`, run as it is."""

    framework = "torch"

    @property
    def inner(self) -> nn.Module:
        """The module whose arrays and layers are seen."""
        module: nn.Module = self.module
        return module

    def prepare(self, device: str, precision: str) -> str:
        """IEEE products, deterministic algorithms where there are any, no gradients; the module's dtype."""
        name = super().prepare(device, precision)
        torch.set_deterministic_debug_mode("warn")
        self.module.to(device=self.device, dtype=getattr(torch, precision))
        return name

    def save_arrays(self, file: str) -> None:
        """Write all tensors to a file; NumPy does not have all of their dtypes."""
        from safetensors.torch import save_file

        save_file({name: tensor.cpu().contiguous().clone() for name, tensor in self.state().items()}, file)

    def shapes(self) -> dict[str, Shape]:
        """Return the shape of every tensor."""
        return {name: tuple(tensor.shape) for name, tensor in self.state().items()}

    def facts(self) -> dict[str, Any]:
        """Return the configuration that the module's library gives it."""
        return model_facts(self.inner)

    def state(self) -> dict[str, Tensor]:
        """The module's own state_dict."""
        return {name: tensor for name, tensor in self.inner.state_dict().items() if isinstance(tensor, Tensor)}

    def named_arrays(self) -> dict[str, np.ndarray]:
        """Copies of the module's own state_dict."""
        return {name: to_numpy(tensor) for name, tensor in self.state().items()}

    @torch.no_grad()
    def set_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Copy arrays into the module's tensors."""
        state = self.state()
        for name, array in arrays.items():
            state[name].copy_(torch.from_numpy(np.array(array)))

    def layer_paths(self) -> Collection[str]:
        """Paths of all modules."""
        return dict(self.inner.named_modules()).keys()

    def build(self, config: ResNetConfig, weights: Source) -> None:
        """Give the module the weights, find its layers, and see which of its parameters are frozen."""
        super().build(config, weights)
        parameters, canonical = dict(self.inner.named_parameters()), self.naming.canonical_names()
        self.trained = {canonical[name]: p for name, p in parameters.items() if name in canonical and p.requires_grad}
        frozen = [canonical[name] for name, p in parameters.items() if name in canonical and not p.requires_grad]
        self.not_shown |= {f"gradient.{name}": "it is frozen (requires_grad is False)" for name in frozen}
        if frozen:
            self.cannot["steps"] = (
                f"{len(frozen)} parameters are frozen (requires_grad is False), {frozen[0]} among them"
            )

    def parameters(self) -> Mapping[str, tuple[int, ...]]:
        """The arrays that the module lists, without counters of its own: whole numbers that are no weights."""
        state, own = self.state(), self.naming.unread
        counters = [name for name in own if name in state and not state[name].dtype.is_floating_point]
        self.not_shown |= dict.fromkeys(counters, "it holds whole numbers, which are no weights of the network")
        return {name: shape for name, shape in super().parameters().items() if name not in counters}

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

    def run(self, images: np.ndarray, train: bool, tap: ArrayTap, hooks: Sequence[Hook]) -> Arrays:
        """Run the module; copies of its activations pass the tap."""
        self.set_mode(train)
        with self.put_back(train):
            self.forward(self.tensor(images), self.array_tap(tap), hooks)
            return self.running_statistics() if train else {}

    def set_mode(self, train: bool) -> None:
        """Ask for train or inference mode, with the weights that the module was given."""
        self.restore()
        self.module.train(train)

    def forward(self, images: Tensor, tap: TensorTap, hooks: Sequence[Hook]) -> Tensor:
        """Run the module; its activations at some hooks pass the tap, and its logits, which cannot be replaced.

        Raises:
            Unfit: If the module raises an error, or returns no logits that are plain.
        """
        laid_out = images.permute(0, 2, 3, 1) if self.options.layout == "NHWC" else images
        handles = [attach(hook, self.inner.get_submodule(hook.path), tap) for hook in hooks]
        try:
            with self.running(laid_out.shape):
                returned = self.module(laid_out)
        finally:
            for handle in handles:
                handle.remove()
        logits: Tensor = select_output(returned, self.options.output, lambda value: isinstance(value, Tensor))
        tap(self.output_name, logits)
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

        with torch.enable_grad(), self.put_back(train):
            logits = self.forward(inputs, *self.replacing(activations))
            value = training.loss(logits, self.on_device(labels), recipe)
            if not value.requires_grad:
                raise Unfit("its logits carry no gradient: a torch.no_grad(), detach() or frozen input is on the way")
            wanted = [*self.trained.values(), inputs]
            gradients = torch.autograd.grad(value, wanted, materialize_grads=True)  # zeros where none arrives
        named = zip([*self.trained, "input"], gradients, strict=True)
        return value.item(), {name: to_numpy(gradient) for name, gradient in named}

    def training(self, recipe: Recipe) -> tuple[TakeStep, ReadState]:
        """Train the module by PyTorch's own optimizer, set up as for our own model; the next run starts afresh."""
        self.keep_untrained()
        run = training.Training(LogitsOnly(self), recipe)  # type: ignore[arg-type]  # any module will do
        canonical = {f"module.{name}": known for name, known in self.naming.canonical_names().items()}

        @torch.enable_grad()
        def step(images: np.ndarray, labels: np.ndarray) -> float:
            loss: float = run.step(self.tensor(images), self.on_device(labels))
            return loss

        def arrays(tensors: Mapping[str, Tensor]) -> Arrays:
            return {canonical[name]: to_numpy(tensor) for name, tensor in tensors.items() if name in canonical}

        def read() -> TrainingState:
            slots = {slot: arrays(tensors) for slot, tensors in run.slots().items()}
            return self.training_state(run, arrays(run.model.state_dict()), slots)

        return step, read

    @contextmanager
    def leaving_as_it_was(self) -> Iterator[None]:
        """Put back the module's tensors, modes and gradients, the switches of PyTorch and its random state."""
        tensors = list({id(t): t for t in (*self.module.parameters(), *self.module.buffers())}.values())
        contents = [(tensor, tensor.data, tensor.data.clone()) for tensor in tensors]
        gradients = [(tensor, tensor.grad, tensor.grad.data) for tensor in tensors if tensor.grad is not None]
        buffers = [(module, dict(module._buffers)) for module in self.module.modules()]
        modes = [(module, module.training) for module in self.module.modules()]
        try:
            with switches_put_back(), torch.random.fork_rng():
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


@contextmanager
def switches_put_back() -> Iterator[None]:
    """Put back, at the end, the switches of PyTorch that `prepare` sets."""
    cudnn: Any = torch.backends.cudnn
    switches = (cudnn.conv, torch.backends.cuda.matmul)
    precisions = [switch.fp32_precision for switch in switches]
    grad, deterministic = torch.is_grad_enabled(), torch.get_deterministic_debug_mode()
    try:
        yield
    finally:
        for switch, precision in zip(switches, precisions, strict=True):
            switch.fp32_precision = precision
        torch.set_deterministic_debug_mode(deterministic)
        torch.set_grad_enabled(grad)


def attach(hook: Hook, module: nn.Module, tap: TensorTap) -> Any:
    """Let an activation pass a tap at each call of a module; returns the handle by which the hook is removed."""
    if hook.takes:
        return module.register_forward_pre_hook(
            lambda module, args, kwargs: hook.pass_input(tap, args, kwargs), with_kwargs=True
        )
    return module.register_forward_hook(lambda module, args, output: hook.pass_output(tap, output))


class LogitsOnly(nn.Module):
    """A module that returns the candidate's logits alone, which is what training needs."""

    def __init__(self, candidate: TorchCandidate) -> None:
        super().__init__()
        self.candidate, self.module = candidate, candidate.inner

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of NCHW images."""
        return self.candidate.forward(images, untapped, ())


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

    def build(self, config: ResNetConfig, weights: Source) -> None:
        """Give the module the weights; an ordinary run does not look into the graph."""
        super().build(config, weights)
        self.not_shown |= {hook.name: self.kind.activations for hook in self.hooks}
        self.eager_hooks, self.hooks = self.hooks, []

    def run_tapped(self, images: np.ndarray, train: bool, tap: ArrayTap) -> Arrays:
        """Pass activations through a tap eagerly."""
        with torch.compiler.set_stance("force_eager"):
            return self.run(images, train, tap, self.eager_hooks)


class Scripted(TorchCandidate):
    """A module of TorchScript, which shows its logits alone."""

    capabilities = TorchCandidate.capabilities - {Capability.TAP}

    def layer_paths(self) -> Collection[str]:
        """Return no path: hooks do not fire inside a scripted module."""
        return ()

    def build(self, config: ResNetConfig, weights: Source) -> None:
        """Give the module the weights."""
        super().build(config, weights)
        inside = [name for name in self.not_shown if not name.startswith("gradient.")]
        self.not_shown |= dict.fromkeys(inside, self.kind.activations)
