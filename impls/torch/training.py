"""Train ResNet-50 in PyTorch, with `torch.optim` set up to compute what `impls.recipe` states.

`impls/flax/training.py` and `impls/keras/training.py` have the same functions; read them side by side.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from torch import Tensor, optim
from torch.nn.functional import cross_entropy
from torch.nn.utils import get_total_norm

from impls.recipe import Recipe
from impls.torch.resnet import ResNet
from impls.torch.state import read_variables, read_weights, write_variables, write_weights
from weights_convert import Checkpoint, TrainingState, load_training


def loss(logits: Tensor, labels: Tensor, recipe: Recipe) -> Tensor:
    """Compute the cross-entropy of logits (batch, classes) with integer labels (batch,), averaged over the batch.

    The labels are smoothed as the recipe states.
    """
    return cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)


def optimizer(model: ResNet, recipe: Recipe) -> optim.Optimizer:
    """Build the optimizer of a recipe.

    Its two groups are the parameters that decay and those that do not. PyTorch's SGD follows the recipe's formula as it
    is: decay enters the velocity, the learning rate does not.
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
    """Schedule of a recipe: the factor of each step, starting at step `steps`.

    `LambdaLR` computes each rate from the step alone, `CosineAnnealingLR` from the rate before it.
    """
    for group in optimizer.param_groups:
        group["initial_lr"] = recipe.learning_rate
    return optim.lr_scheduler.LambdaLR(optimizer, recipe.factor, last_epoch=steps - 1)


def clip(model: ResNet, norm: float | None) -> None:
    """Scale all gradients down, in place, so that their joint norm is at most `norm`; None leaves them.

    `torch.nn.utils.clip_grad_norm_` divides by the norm plus 1e-6; Flax and Keras do not.
    """
    if norm is not None:
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        factor = (norm / get_total_norm(gradients)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factor)


class Training:
    """Training run of a model: its optimizer and schedule, and the number of steps taken.

    Args:
        model: Model to train, in place.
        recipe: Optimizer, schedule and loss.

    Attributes:
        steps: Number of steps taken.

    Example:
        >>> from impls.torch import resnet50
        >>> training = Training(resnet50("v1.5", num_classes=10), Recipe(learning_rate=0.01))
        >>> loss_before = training.step(torch.randn(8, 3, 64, 64), torch.arange(8))
    """

    def __init__(self, model: ResNet, recipe: Recipe) -> None:
        self.model, self.recipe = model, recipe
        self.optimizer = optimizer(model, recipe)
        for parameter in model.parameters():  # PyTorch would create this state at the first step
            slots = {slot: torch.zeros_like(parameter) for slot in recipe.slots}
            self.optimizer.state[parameter] = {"step": torch.tensor(0.0)} | slots
        self.schedule, self.steps = schedule(self.optimizer, recipe), 0

    def step(self, images: Tensor, labels: Tensor) -> float:
        """Take one step on a batch, and return the loss before it; the model is left in train mode.

        Args:
            images: (batch, channels, height, width), in the model's dtype and on its device.
            labels: Integers (batch,).
        """
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
        """Collect the tensors of the optimizer by slot, as PyTorch names it, and by parameter name.

        Example: `training.slots()["momentum_buffer"]["conv1.weight"]`.
        """
        parameters = dict(self.model.named_parameters())
        return {
            slot: {name: self.optimizer.state[parameter][slot] for name, parameter in parameters.items()}
            for slot in self.recipe.slots
        }

    def set_slots(self, slots: Mapping[str, Checkpoint], steps: int) -> None:
        """Set the arrays of the optimizer, and the number of steps taken.

        Args:
            slots: Checkpoint of each slot (`Recipe.slots`), in any dialect; its arrays are named as the parameters.
            steps: Number of steps taken; decides the learning rate of the next step.
        """
        for slot, variables in self.slots().items():
            write_variables(variables, slots[slot])
        for state in self.optimizer.state.values():
            state["step"].fill_(steps)  # AdamW corrects its means by it; SGD ignores it
        self.schedule, self.steps = schedule(self.optimizer, self.recipe, steps), steps


def read_training(training: Training) -> TrainingState:
    """Copy a training run into a state: weights, optimizer slots, number of steps and recipe.

    The state can be saved, and resumed in this or another framework.

    Example:
        >>> from impls.torch import resnet50
        >>> training = Training(resnet50("v1.5", num_classes=10), Recipe())
        >>> read_training(training).save("run.safetensors")
    """
    slots = {slot: read_variables(variables) for slot, variables in training.slots().items()}
    return TrainingState.of(read_weights(training.model), slots, training.steps, training.recipe)


def resume(model: ResNet, source: TrainingState | str | os.PathLike[str]) -> Training:
    """Continue a training run from a state, whichever framework it comes from.

    Args:
        model: Model to train; it takes the weights of the state.
        source: A state, or a file that `TrainingState.save` wrote.

    Raises:
        ConversionError: If the state belongs to another network, or has a dtype that the model's cannot hold exactly.
    """
    state = load_training(source, model.config)
    write_weights(model, state.weights)
    training = Training(model, state.recipe)
    training.set_slots(state.slots, state.steps)
    return training
