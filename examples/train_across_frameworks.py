"""Train in PyTorch, continue in Flax, evaluate in all three: one run, the same predictions.

    python examples/train_across_frameworks.py [--epochs 6] [--handover 3] [--folder runs]

A small ResNet-50 (16 blocks, an eighth of the width) learns the 1,797 handwritten digits that scikit-learn ships, 8x8
pixels enlarged to 32x32. After some epochs the run moves to Flax, with its optimizer state; at the end the weights are
evaluated in PyTorch, Flax and Keras.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from rich.console import Console
from sklearn.datasets import load_digits

from impls.config import VARIANTS
from impls.recipe import Recipe

NETWORK = replace(VARIANTS["v1.5"], width=8, num_classes=10, in_channels=1)
BATCH = 64
TEST = 360
"""Number of images that are kept for the test."""


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Load training images and labels, test images and labels; images are (n, 1, 32, 32), of mean 0 and deviation 1."""
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 1, 8, 8).repeat(4, axis=2).repeat(4, axis=3)
    images = ((images - images.mean()) / images.std()).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order], labels[order]
    return images[:-TEST], labels[:-TEST], images[-TEST:], labels[-TEST:]


def batches(images: np.ndarray, labels: np.ndarray, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the batches of an epoch, all of one size, shuffled in the same way for every framework."""
    order = np.random.default_rng(epoch).permutation(len(images))
    for start in range(0, len(images) - BATCH + 1, BATCH):
        chosen = order[start : start + BATCH]
        yield images[chosen], labels[chosen]


def channels_last(images: np.ndarray) -> np.ndarray:
    """Transpose (n, channels, height, width) to (n, height, width, channels)."""
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1))


def train(
    step: Callable[[np.ndarray, np.ndarray], float],
    epochs: range,
    images: np.ndarray,
    labels: np.ndarray,
    console: Console,
) -> None:
    """Train for some epochs, and print a line for each."""
    for epoch in epochs:
        started = time.perf_counter()
        losses = [step(*batch) for batch in batches(images, labels, epoch)]
        seconds = time.perf_counter() - started
        console.print(f"  epoch {epoch + 1}: loss {np.mean(losses):.4f} ({len(losses)} steps, {seconds:.0f} s)")


def main() -> None:
    """Train, hand over, continue, and evaluate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6, help="number of epochs in all")
    parser.add_argument("--handover", type=int, default=3, help="epochs in PyTorch, before Flax takes over")
    parser.add_argument("--images", type=int, default=None, help="train on the first images only")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="folder for the files of the run")
    options = parser.parse_args()
    if not 0 < options.handover < options.epochs:
        parser.error(f"--handover must be between 0 and --epochs {options.epochs}, not {options.handover}")
    console = Console()
    options.folder.mkdir(parents=True, exist_ok=True)
    images, labels, test_images, test_labels = digits()
    images, labels = images[: options.images], labels[: options.images]
    steps = options.epochs * (len(images) // BATCH)
    recipe = Recipe(
        learning_rate=0.05,
        nesterov=True,
        weight_decay=1e-4,
        decayed="kernels",
        schedule="cosine",
        warmup_steps=min(20, steps - 1),
        total_steps=steps,
    )

    handover, trained = options.folder / "handover.safetensors", options.folder / "trained.safetensors"
    console.print("Training in PyTorch")
    start_in_torch(recipe, range(options.handover), images, labels, handover, console)
    console.print("Continuing in Flax")
    finish_in_flax(handover, range(options.handover, options.epochs), images, labels, trained, console)
    console.print("Evaluating")
    predictions = predict_everywhere(trained, test_images)
    for framework, predicted in predictions.items():
        accuracy = np.mean(predicted == test_labels)
        console.print(f"  {framework}: accuracy {accuracy:.2%} on {len(test_labels)} test images")
    same = all(np.array_equal(predicted, predictions["Keras"]) for predicted in predictions.values())
    console.print("all frameworks predict the same for every test image" if same else "predictions differ")
    raise SystemExit(not same)


def start_in_torch(
    recipe: Recipe, epochs: range, images: np.ndarray, labels: np.ndarray, handover: Path, console: Console
) -> None:
    """Train from random weights, and save the state of the run."""
    import torch

    from impls.torch import Training, read_training, resnet

    training = Training(resnet(NETWORK, seed=0), recipe)
    train(lambda x, y: training.step(torch.from_numpy(x), torch.from_numpy(y)), epochs, images, labels, console)
    read_training(training).save(handover)


def finish_in_flax(
    handover: Path, epochs: range, images: np.ndarray, labels: np.ndarray, trained: Path, console: Console
) -> None:
    """Continue the run, and save the weights."""
    from impls.flax import read_weights, resnet, resume

    training = resume(resnet(NETWORK), handover)
    train(lambda x, y: training.step(channels_last(x), y), epochs, images, labels, console)
    read_weights(training.model).to("canonical").save(trained)


def predict_everywhere(weights: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """Predict the class of each image in each framework."""
    import torch

    import impls.flax
    import impls.keras
    import impls.torch

    in_torch = impls.torch.resnet(NETWORK, weights).eval()
    in_flax = impls.flax.resnet(NETWORK, weights)
    in_flax.eval()
    in_keras = impls.keras.resnet(NETWORK, weights)
    with torch.no_grad():
        logits = {
            "PyTorch": in_torch(torch.from_numpy(images)).numpy(),
            "Flax": np.asarray(in_flax(channels_last(images))),
            "Keras": in_keras.predict(channels_last(images), verbose=0),
        }
    return {framework: values.argmax(1) for framework, values in logits.items()}


if __name__ == "__main__":
    main()
