"""impls.torch, run eagerly; and further builds of it that must compute the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from conformance.run.adapters import DeviceMissing, Given, ReadState, See, TakeStep, running_statistics
from impls.config import ResNetConfig
from impls.recipe import Recipe
from impls.torch import ResNet, read_training, read_weights, resnet, training


class TorchAdapter:
    """The PyTorch model; subclasses run it in another way."""

    resnet, trainer = staticmethod(resnet), training

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
        """torch.matmul on the device."""
        return (self.on_device(left) @ self.on_device(right)).cpu().numpy()

    def convolve(self, images: np.ndarray, kernel: np.ndarray) -> np.ndarray:
        """torch.nn.functional.conv2d on the device."""
        return torch.nn.functional.conv2d(self.on_device(images), self.on_device(kernel)).cpu().numpy()

    def build(self, config: ResNetConfig, weights: Path) -> None:
        """Load the network onto the device."""
        self.built_from = replace(config, dtype=self.precision), weights
        self.model = self.network()

    def network(self) -> ResNet:
        """A network of its own, with the weights that `build` was given, on the device."""
        return self.resnet(*self.built_from).to(self.device)

    def parameters(self) -> Mapping[str, tuple[int, ...]]:
        """The model's own state_dict, less the batch counters."""
        return {
            name: tuple(t.shape)
            for name, t in self.model.state_dict().items()
            if not name.endswith("num_batches_tracked")
        }

    def run(self, images: np.ndarray, train: bool, layers: bool) -> Mapping[str, np.ndarray]:
        """Activations, and running statistics after a train-mode run."""
        statistics = running_statistics(self.model, self.model.config, "torch")
        before = {name: tensor.clone() for name, tensor in statistics.items()}
        self.model.train(train)
        arrays = to_numpy(self.activations(self.on_device(images.astype(self.precision)), layers))
        if train:
            arrays |= to_numpy(statistics)
            for name, tensor in statistics.items():
                tensor.copy_(before[name])
        return arrays

    def stream(self, images: np.ndarray, train: bool, see: See) -> Mapping[str, np.ndarray]:
        """Every activation shown, none kept; the running statistics after a train-mode run."""

        def tap(name: str, value: torch.Tensor) -> torch.Tensor:
            given = see(name, value.cpu().numpy())
            return value if given is None else self.on_device(given.astype(self.precision))

        def activations(images: torch.Tensor, layers: bool) -> dict[str, torch.Tensor]:
            self.model(images, tap=tap)
            return {}

        streaming = copy(self)
        streaming.activations = activations  # type: ignore[method-assign]  # `run` does all the rest
        return streaming.run(images, train, layers=True)

    def activations(self, images: torch.Tensor, layers: bool) -> dict[str, torch.Tensor]:
        """The model's activations."""
        return self.model.activations(images, layers)

    def gradients(
        self, images: np.ndarray, labels: np.ndarray, recipe: Recipe, train: bool, given: Given = None
    ) -> tuple[float, Mapping[str, np.ndarray]]:
        """By autograd; running statistics are put back."""
        statistics = running_statistics(self.model, self.model.config, "torch")
        before = {name: tensor.clone() for name, tensor in statistics.items()}
        inputs = self.on_device(images.astype(self.precision)).requires_grad_()
        parameters = dict(self.model.train(train).named_parameters())
        with torch.enable_grad():
            logits = self.model(inputs) if given is None else self.model(inputs, tap=self.giving(given))
            value = self.trainer.loss(logits, self.on_device(labels), recipe)
            wanted = [*parameters.values(), inputs]
            found = torch.autograd.grad(value, wanted, materialize_grads=True)  # zeros where none arrives
        for name, tensor in statistics.items():
            tensor.copy_(before[name])
        return value.item(), to_numpy(dict(zip([*parameters, "input"], found, strict=True)))

    def giving(self, given: Mapping[str, np.ndarray]) -> Callable[[str, torch.Tensor], torch.Tensor]:
        """A tap that goes on with what is given, and passes gradients back to what was computed."""
        return lambda name, value: self.on_device(given[name]) + (value - value.detach())

    def training(self, recipe: Recipe) -> tuple[TakeStep, ReadState]:
        """A run of training from the weights of the file."""
        run = self.trainer.Training(self.fresh(), recipe)

        @torch.enable_grad()
        def step(images: np.ndarray, labels: np.ndarray) -> float:
            return run.step(self.on_device(images.astype(self.precision)), self.on_device(labels))

        return step, lambda: read_training(run)

    def fresh(self) -> ResNet:
        """Another network like the one that was built."""
        return self.network()

    def initial(self, seed: int) -> Mapping[str, np.ndarray]:
        """What another network like it starts from."""
        return read_weights(self.resnet(self.built_from[0], seed=seed)).to("canonical").arrays

    def on_device(self, array: np.ndarray) -> torch.Tensor:
        """A tensor of the array's numbers on the device."""
        return torch.from_numpy(np.array(array)).to(self.device)


class ChannelsLast(TorchAdapter):
    """Kernels and images in memory as NHWC, which PyTorch sums in other loops; shapes stay NCHW."""

    def network(self) -> ResNet:
        """With its kernels so."""
        return super().network().to(memory_format=torch.channels_last)

    def on_device(self, array: np.ndarray) -> torch.Tensor:
        """Of images, with the channels last."""
        tensor = super().on_device(array)
        return tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


class WithoutOneDnn(TorchAdapter):
    """By PyTorch's own kernels for the CPU, where it would ask oneDNN."""

    def prepare(self, device: str, precision: str) -> str:
        """Without oneDNN from the start."""
        torch.backends.mkldnn.enabled = False  # type: ignore[assignment]  # a property of the module
        return super().prepare(device, precision)

    def switches(self) -> Mapping[str, str]:
        """Whether it is off."""
        return {**super().switches(), "oneDNN": str(torch.backends.mkldnn.enabled)}


class Compiled(TorchAdapter):
    """Through torch.compile, whole: what cannot be compiled is an error, not run eagerly in silence."""

    def prepare(self, device: str, precision: str) -> str:
        """Many networks of one process, each in two modes, may be compiled."""
        torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 1000
        return super().prepare(device, precision)

    def network(self) -> ResNet:
        """Compiled when it is first called, for the shape that it is called with."""
        network = super().network()
        network.compile(fullgraph=True, dynamic=False)
        return network

    def stream(self, images: np.ndarray, train: bool, see: See) -> Mapping[str, np.ndarray]:
        """Eagerly: a compiled network cannot be looked into while it runs."""
        with torch.compiler.set_stance("force_eager"):
            return super().stream(images, train, see)


def to_numpy(tensors: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Copies of tensors of any device as arrays."""
    return {name: tensor.cpu().clone().numpy() for name, tensor in tensors.items()}
