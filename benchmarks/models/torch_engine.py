"""Running PyTorch models, in a worker."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.models.devices import TorchDevice
from benchmarks.models.inputs import LEARNING_RATE, MOMENTUM, Inputs
from benchmarks.models.tables import Comparison, Contender


class TorchEngine:
    """Runs PyTorch models eagerly, compiled, in either memory layout, and as a graph exported to ONNX."""

    def __init__(self, device: str) -> None:
        import torch

        self.torch, self.device = torch, TorchDevice(device)

    def prepare(self, contender: Contender, comparison: Comparison, weights: Path, folder: Path) -> Callable[[], Any]:
        """A function that does the task once and returns the logits, or the loss."""
        torch, device, inputs = self.torch, self.device.type, Inputs.draw(comparison.batch)
        model = contender.build(weights, contender.variant, comparison.precision).to(device)
        if comparison.way == "ONNX Runtime":
            return self.onnx_session(model.eval(), inputs, folder / "model.onnx")
        options = comparison.way.split(", ")
        layout = torch.channels_last if "channels-last" in options else torch.contiguous_format
        images = torch.from_numpy(inputs.images).to(device).contiguous(memory_format=layout)
        labels = torch.from_numpy(inputs.labels).to(device)
        model = model.to(memory_format=layout)
        run = torch.compile(model, dynamic=False) if "compiled" in options else model
        autocast = partial(torch.autocast, device, torch.bfloat16, enabled=comparison.precision == "bfloat16")
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
        """A training step of `impls.torch`."""
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
