"""Adapter of the PyTorch implementation, run eagerly; and further builds of it that must compute the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch

from conformance.run.adapters.blueprint import Blueprint
from conformance.run.adapters.canonical import RunningStatistics, framework_tap, replacing
from conformance.run.capabilities import EVERYTHING, Arrays, ArrayTap, Capability, DeviceMissing, ReadState, TakeStep
from impls.config import ResNetConfig
from impls.recipe import Recipe
from impls.torch import ResNet, read_training, read_weights, resnet, training
from weights_convert.sources import Source

CPU = torch.device("cpu")
CORRECT = Blueprint("torch", resnet, training)


@dataclass(eq=False)
class TorchAdapter:
    """The PyTorch model; subclasses run it in another way.

    Attributes:
        blueprint: Where networks and training come from.
        device: Where it runs, from `prepare` on.
        precision: The dtype of parameters and images, from `prepare` on.
    """

    capabilities: ClassVar[frozenset[Capability]] = EVERYTHING
    blueprint: Blueprint = CORRECT
    device: torch.device = CPU
    precision: str = "float64"
    built_from: tuple[ResNetConfig, Source] = field(init=False)
    model: ResNet = field(init=False)

    def prepare(self, device: str, precision: str) -> str:
        """IEEE products, deterministic algorithms, no gradients."""
        if device == "gpu" and not torch.cuda.is_available():
            raise DeviceMissing("PyTorch sees no GPU (torch.cuda.is_available() is False)")
        self.device = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
        self.precision = precision
        torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]  # set at run time
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        torch.set_deterministic_debug_mode("error")  # use_deterministic_algorithms imports the compiler, in 2 s
        torch.set_grad_enabled(False)
        return torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu"

    def switches(self) -> Mapping[str, str]:
        """The precision and determinism settings, read back."""
        return {
            "cudnn.conv.fp32_precision": torch.backends.cudnn.conv.fp32_precision,  # type: ignore[attr-defined]  # likewise
            "cuda.matmul.fp32_precision": torch.backends.cuda.matmul.fp32_precision,
            "deterministic algorithms": str(torch.are_deterministic_algorithms_enabled()),
            "threads": str(torch.get_num_threads()),
        }

    def multiply(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Multiply by torch.matmul on the device."""
        return to_numpy(self.on_device(left) @ self.on_device(right))

    def convolve(self, images: np.ndarray, kernel: np.ndarray) -> np.ndarray:
        """Convolve by torch.nn.functional.conv2d on the device."""
        return to_numpy(torch.nn.functional.conv2d(self.on_device(images), self.on_device(kernel)))

    def build(self, config: ResNetConfig, weights: Source) -> None:
        """Load the network onto the device."""
        self.built_from = replace(config, dtype=self.precision), weights
        self.model = self.network()

    def network(self) -> ResNet:
        """Build another network with the weights that `build` was given, on the device."""
        network: ResNet = self.blueprint.resnet(*self.built_from).to(self.device)
        return network

    def parameters(self) -> Mapping[str, tuple[int, ...]]:
        """The model's own state_dict, without the batch counters."""
        return {
            name: tuple(tensor.shape)
            for name, tensor in self.model.state_dict().items()
            if not name.endswith("num_batches_tracked")
        }

    @property
    def statistics(self) -> RunningStatistics:
        """Running statistics of the network."""
        return RunningStatistics(self.model, "torch", to_numpy, lambda tensor, array: tensor.copy_(self.tensor(array)))

    def record(self, images: np.ndarray, train: bool, layers: bool) -> Arrays:
        """Return activations, and running statistics after a train-mode run."""
        self.model.train(train)
        with self.statistics.put_back():
            activations = self.activations(self.tensor(images), layers)
            arrays = {name: to_numpy(tensor) for name, tensor in activations.items()}
            return arrays | (self.statistics.arrays() if train else {})

    def activations(self, images: torch.Tensor, layers: bool) -> dict[str, torch.Tensor]:
        """Return the model's activations."""
        return self.model.activations(images, layers)

    def run_tapped(self, images: np.ndarray, train: bool, tap: ArrayTap) -> Arrays:
        """Pass every activation through a tap; return the running statistics after a train-mode run."""
        self.model.train(train)
        with self.statistics.put_back():
            self.model(self.tensor(images), tap=framework_tap(tap, to_numpy, self.tensor))
            return self.statistics.arrays() if train else {}

    def gradients(
        self, images: np.ndarray, labels: np.ndarray, recipe: Recipe, train: bool, activations: Arrays | None = None
    ) -> tuple[float, Arrays]:
        """Differentiate by autograd."""
        inputs = self.tensor(images).requires_grad_()
        parameters = dict(self.model.train(train).named_parameters())
        with torch.enable_grad(), self.statistics.put_back():
            value = self.blueprint.training.loss(self.logits(inputs, activations), self.on_device(labels), recipe)
            wanted = [*parameters.values(), inputs]
            gradients = torch.autograd.grad(value, wanted, materialize_grads=True)  # zeros where none arrives
        named = zip([*parameters, "input"], gradients, strict=True)
        return value.item(), {name: to_numpy(gradient) for name, gradient in named}

    def logits(self, images: torch.Tensor, activations: Arrays | None) -> torch.Tensor:
        """Run the network at its own activations or at others."""
        if activations is None:
            logits: torch.Tensor = self.model(images)
        else:
            tensors = {name: self.tensor(array) for name, array in activations.items()}
            logits = self.model(images, tap=replacing(tensors, torch.Tensor.detach))
        return logits

    def training(self, recipe: Recipe) -> tuple[TakeStep, ReadState]:
        """Begin a run of training from the weights of the file."""
        run = self.blueprint.training.Training(self.network(), recipe)

        @torch.enable_grad()
        def step(images: np.ndarray, labels: np.ndarray) -> float:
            loss: float = run.step(self.tensor(images), self.on_device(labels))
            return loss

        return step, lambda: read_training(run)

    def initial(self, seed: int) -> Arrays:
        """Draw the arrays of a network without weights."""
        return read_weights(self.blueprint.resnet(self.built_from[0], seed=seed)).to("canonical").arrays

    def tensor(self, array: np.ndarray) -> torch.Tensor:
        """Copy an array to the device, in the precision asked for."""
        return self.on_device(array.astype(self.precision))

    def on_device(self, array: np.ndarray) -> torch.Tensor:
        """Copy an array to the device."""
        return torch.from_numpy(np.array(array)).to(self.device)


class ChannelsLast(TorchAdapter):
    """The model with kernels and images in memory as NHWC, which PyTorch sums in other loops; shapes stay NCHW."""

    def network(self) -> ResNet:
        """Build a network whose kernels have the channels last."""
        return super().network().to(memory_format=torch.channels_last)

    def on_device(self, array: np.ndarray) -> torch.Tensor:
        """Copy an array to the device, images with the channels last."""
        tensor = super().on_device(array)
        return tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


class WithoutOneDnn(TorchAdapter):
    """The model by PyTorch's own kernels for the CPU, where it would ask oneDNN."""

    def prepare(self, device: str, precision: str) -> str:
        """Switch oneDNN off from the start."""
        torch.backends.mkldnn.enabled = False  # type: ignore[assignment]  # a property of the module
        return super().prepare(device, precision)

    def switches(self) -> Mapping[str, str]:
        """The settings, and whether oneDNN is off."""
        return {**super().switches(), "oneDNN": str(torch.backends.mkldnn.enabled)}


class Compiled(TorchAdapter):
    """The model through torch.compile, whole: what cannot be compiled is an error, not run eagerly in silence."""

    def prepare(self, device: str, precision: str) -> str:
        """Allow many networks of one process, each in two modes, to be compiled."""
        torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 1000
        return super().prepare(device, precision)

    def network(self) -> ResNet:
        """Build a network that is compiled when it is first called, for the shape that it is called with."""
        network = super().network()
        network.compile(fullgraph=True, dynamic=False)
        return network

    def build(self, config: ResNetConfig, weights: Source) -> None:
        """Load the network, and compile the function that returns its activations."""
        super().build(config, weights)
        self.compiled: Callable[..., Any] = torch.compile(self.model.activations, fullgraph=True, dynamic=False)

    def activations(self, images: torch.Tensor, layers: bool) -> dict[str, torch.Tensor]:
        """Return the activations from the compiled function."""
        activations: dict[str, torch.Tensor] = self.compiled(images, layers)
        return activations

    def run_tapped(self, images: np.ndarray, train: bool, tap: ArrayTap) -> Arrays:
        """Pass activations through a tap eagerly: a compiled network cannot be looked into while it runs."""
        with torch.compiler.set_stance("force_eager"):
            return super().run_tapped(images, train, tap)


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """Copy a tensor of any device into an array."""
    return tensor.detach().cpu().clone().numpy()
