"""Training ResNet-50 in PyTorch: `torch.optim` set up to compute what `impls.recipe` says.

The same functions and lines stand in `impls/flax/training.py` and `impls/keras/training.py`; read them side by side.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, optim
from torch.nn.functional import cross_entropy
from torch.nn.utils import get_total_norm

from impls.recipe import Recipe
from impls.torch.resnet import ResNet
from impls.torch.state import assign, numpy_dtype, read_weights, to_numpy, write_weights
from weights_convert import TrainingState, load_training


def loss(logits: Tensor, labels: Tensor, recipe: Recipe) -> Tensor:
    """The cross-entropy of logits (batch, classes) with integer labels (batch,), averaged over the batch."""
    return cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)


def optimizer(model: ResNet, recipe: Recipe) -> optim.Optimizer:
    """The optimizer of a recipe; parameters that decay and those that do not are its two groups.

    PyTorch's SGD is the recipe's as it stands: decay enters the velocity, the learning rate does not.
    """
    groups = [
        {
            "params": [p for p in model.parameters() if recipe.decays(p.ndim) == decays],
            "weight_decay": recipe.weight_decay * decays,
        }
        for decays in (True, False)
    ]
    if recipe.optimizer == "adamw":
        return optim.AdamW(groups, recipe.learning_rate, (recipe.beta1, recipe.beta2), recipe.eps)
    return optim.SGD(groups, recipe.learning_rate, recipe.momentum, nesterov=recipe.nesterov)


def schedule(optimizer: optim.Optimizer, recipe: Recipe, steps: int = 0) -> optim.lr_scheduler.LRScheduler:
    """The recipe's schedule: a factor, at a step; `CosineAnnealingLR` would compute each rate from the one before."""
    for group in optimizer.param_groups:
        group["initial_lr"] = recipe.learning_rate
    return optim.lr_scheduler.LambdaLR(optimizer, recipe.factor, last_epoch=steps - 1)


def clip(model: ResNet, norm: float | None) -> None:
    """Scale gradients down to the norm that they may have together.

    `torch.nn.utils.clip_grad_norm_` divides by 1e-6 more than the norm; the other two do not.
    """
    if norm is not None:
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        factor = (norm / get_total_norm(gradients)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factor)


class Training:
    """A model in training: its optimizer and schedule, and the step at which they stand.

    Args:
        model: Is trained in place.
        recipe: How.

    Attributes:
        steps: Number of steps taken.

    Example:
        >>> training = Training(resnet50("v1.5", num_classes=10), Recipe(learning_rate=0.01))
        >>> training.step(torch.randn(8, 3, 64, 64), torch.arange(8))  # the loss before the step
    """

    def __init__(self, model: ResNet, recipe: Recipe) -> None:
        self.model, self.recipe = model, recipe
        self.optimizer = optimizer(model, recipe)
        for parameter in model.parameters():  # torch.optim alone would create its state at the first step
            self.optimizer.state[parameter] = {slot: torch.zeros_like(parameter) for slot in recipe.slots}
        self._set_steps(0)

    def step(self, images: Tensor, labels: Tensor) -> float:
        """Take one step on a batch of images (batch, channels, height, width); the loss before it."""
        self.model.train()
        self.optimizer.zero_grad()
        value = loss(self.model(images), labels, self.recipe)
        value.backward()
        clip(self.model, self.recipe.clip_norm)
        self.optimizer.step()
        self.schedule.step()
        self.steps += 1
        return value.item()

    def slots(self) -> dict[str, dict[str, Tensor]]:
        """What the optimizer keeps: slot, in PyTorch's name, to a tensor by parameter name."""
        parameters = dict(self.model.named_parameters())
        return {
            slot: {name: self.optimizer.state[parameter][slot] for name, parameter in parameters.items()}
            for slot in self.recipe.slots
        }

    def set_slots(self, slots: Mapping[str, Mapping[str, np.ndarray]], steps: int) -> None:
        """Set what the optimizer keeps, and the step."""
        for slot, variables in self.slots().items():
            for name, variable in variables.items():
                assign(variable, slots[slot][name])
        self._set_steps(steps)

    def _set_steps(self, steps: int) -> None:
        if self.recipe.optimizer == "adamw":
            for state in self.optimizer.state.values():
                state["step"] = torch.tensor(float(steps))
        self.schedule, self.steps = schedule(self.optimizer, self.recipe, steps), steps


def read_training(training: Training) -> TrainingState:
    """Copy a run of training: weights, optimizer slots, number of steps and recipe.

    The state can be saved, and resumed in this or another framework.
    """
    slots = {
        slot: {name: to_numpy(variable) for name, variable in variables.items()}
        for slot, variables in training.slots().items()
    }
    return TrainingState.of(read_weights(training.model), slots, training.steps, training.recipe)


def resume(model: ResNet, source: TrainingState | str | os.PathLike[str]) -> Training:
    """Continue a run of training that began in this or another framework.

    Args:
        model: Takes the weights.
        source: A state, or a file that `TrainingState.save` wrote.

    Raises:
        ConversionError: If the state belongs to another network, or has a dtype that the model's cannot hold exactly.
    """
    state = load_training(source, model.config)
    write_weights(model, state.weights)
    training = Training(model, state.recipe)
    dtypes = {
        slot: {name: numpy_dtype(variable) for name, variable in variables.items()}
        for slot, variables in training.slots().items()
    }
    training.set_slots(state.slot_arrays("torch", dtypes), state.steps)
    return training
