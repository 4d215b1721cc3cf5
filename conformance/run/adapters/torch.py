"""Adapter of the PyTorch implementation, run eagerly; and further builds of it that must compute the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from conformance.run.adapters.blueprint import Blueprint, BlueprintAdapter
from conformance.run.adapters.canonical import RunningStatistics, replacing
from conformance.run.capabilities import Arrays, ArrayTap, DeviceMissing
from impls.config import ResNetConfig
from impls.recipe import Recipe
from impls.taps import Tap
from impls.torch import ResNet, read_weights, resnet, training
from weights_convert.sources import Source

CPU = torch.device("cpu")
CORRECT = Blueprint("torch", resnet, training)


@dataclass(eq=False)
class TorchAdapter(BlueprintAdapter):
    """The PyTorch model; subclasses run it in another way.

    Attributes:
        device: Where it runs, from `prepare` on.
    """

    read_weights, stop_gradient = staticmethod(read_weights), staticmethod(torch.Tensor.detach)
    blueprint: Blueprint = CORRECT
    device: torch.device = CPU

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

    def network(self) -> ResNet:
        """Build another network with the weights that `build` was given, on the device."""
        network: ResNet = super().network().to(self.device)
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

    def activations(self, images: torch.Tensor, train: bool, layers: bool) -> Any:
        """Return the model's activations."""
        return self.model.train(train).activations(images, layers)

    def run_model(self, images: torch.Tensor, train: bool, tap: Tap[torch.Tensor]) -> object:
        """Run the model with a tap."""
        return self.model.train(train)(images, tap=tap)

    @torch.enable_grad()
    def differentiate(
        self,
        images: torch.Tensor,
        labels: np.ndarray,
        recipe: Recipe,
        train: bool,
        activations: Mapping[str, Any] | None,
    ) -> tuple[float, Arrays]:
        """Differentiate by autograd."""
        parameters = dict(self.model.train(train).named_parameters())
        logits = self.model(images.requires_grad_(), tap=replacing(activations, self.stop_gradient))
        value = self.blueprint.training.loss(logits, self.on_device(labels), recipe)
        wanted = [*parameters.values(), images]
        gradients = torch.autograd.grad(value, wanted, materialize_grads=True)  # zeros where none arrives
        named = zip([*parameters, "input"], gradients, strict=True)
        return value.item(), {name: to_numpy(gradient) for name, gradient in named}

    @torch.enable_grad()
    def step(self, run: Any, images: np.ndarray, labels: Any) -> float:
        """Take one step of a run of training."""
        return super().step(run, images, self.on_device(labels))

    def tensor(self, array: np.ndarray) -> torch.Tensor:
        """Copy an array to the device, in the precision asked for."""
        return self.on_device(array.astype(self.precision))

    def array(self, tensor: torch.Tensor) -> np.ndarray:
        """Copy a tensor into an array."""
        return to_numpy(tensor)

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

    def activations(self, images: torch.Tensor, train: bool, layers: bool) -> Any:
        """Return the activations from the compiled function."""
        self.model.train(train)
        return self.compiled(images, layers)

    def run_tapped(self, images: np.ndarray, train: bool, tap: ArrayTap) -> Arrays:
        """Pass activations through a tap eagerly: a compiled network cannot be looked into while it runs."""
        with torch.compiler.set_stance("force_eager"):
            return super().run_tapped(images, train, tap)


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """Copy a tensor of any device into an array; bfloat16, which NumPy lacks, is widened to float32."""
    dtype = torch.float32 if tensor.dtype == torch.bfloat16 else tensor.dtype
    return tensor.detach().to("cpu", dtype, copy=True).numpy()
