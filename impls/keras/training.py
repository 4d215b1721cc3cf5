"""Train ResNet-50 in Keras 3, on any backend, with `keras.optimizers` set up to compute what `impls.recipe` states.

`impls/torch/training.py` and `impls/flax/training.py` have the same functions; read them side by side.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import KerasTensor as Tensor
from keras import ops

from impls.keras.resnet import ResNet, registered
from impls.keras.state import read_variables, read_weights, write_variables, write_weights
from impls.recipe import Recipe
from weights_convert import Checkpoint, TrainingState, load_training
from weights_convert.live import named_variables
from weights_convert.table import SLOTS


def loss(logits: Tensor, labels: Tensor, recipe: Recipe) -> Tensor:
    """Compute the cross-entropy of logits (batch, classes) with integer labels (batch,), averaged over the batch.

    The labels are smoothed as the recipe states.
    """
    classes = ops.cast(labels, "int32")  # a Loss converts labels to its own dtype
    targets = ops.one_hot(classes, logits.shape[-1], dtype=logits.dtype)
    smoothing = recipe.label_smoothing
    return ops.mean(keras.losses.categorical_crossentropy(targets, logits, from_logits=True, label_smoothing=smoothing))


@registered
class Loss(keras.losses.Loss):
    """Loss of a recipe, in the form that `compile` takes; it computes `loss`, in float32 or in float64.

    Keras converts labels to the dtype of the loss, and bfloat16 has no whole number between 256 and 258.
    """

    def __init__(self, recipe: Recipe, dtype: str | None = None) -> None:
        super().__init__(dtype=keras.backend.result_type(dtype or keras.config.floatx(), "float32"))
        self.recipe = recipe

    def call(self, labels: Tensor, logits: Tensor) -> Tensor:
        return loss(logits, labels, self.recipe)

    def get_config(self) -> dict[str, Any]:
        return {"recipe": self.recipe.to_dict()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Loss:
        return cls(Recipe.from_dict(config["recipe"]))


@registered
class Sgd(keras.optimizers.SGD):
    """SGD as in PyTorch: the weight decay enters the velocity, and the learning rate does not.

    Keras's SGD keeps `v = momentum * v - rate * g`, which differs as soon as the rate changes; it subtracts the decay
    from the weights first; and it rounds momentum and decay to float32.
    """

    def update_step(self, gradient: Tensor, variable: keras.Variable, learning_rate: Tensor) -> None:
        rate = ops.cast(learning_rate, variable.dtype)
        if self.weight_decay and self._use_weight_decay(variable):
            gradient = gradient + self.weight_decay * variable
        if self.momentum:
            velocity = self.momentums[self._get_variable_index(variable)]
            velocity.assign(self.momentum * velocity + gradient)
            gradient = gradient + self.momentum * velocity if self.nesterov else velocity
        variable.assign(variable - rate * gradient)

    def _apply_weight_decay(self, variables: Sequence[keras.Variable]) -> None:
        """Do nothing: `update_step` applies the decay."""


@registered
class AdamW(keras.optimizers.AdamW):
    """AdamW as in its paper and in PyTorch: eps is added to the bias-corrected square root.

    Keras's AdamW adds eps to the uncorrected root, which makes it eps / sqrt(1 - beta2**t) in the paper's formula: 32
    times as large at the first step. It also rounds decay and betas to float32.
    """

    def update_step(self, gradient: Tensor, variable: keras.Variable, learning_rate: Tensor) -> None:
        rate, count = ops.cast(learning_rate, variable.dtype), ops.cast(self.iterations + 1, variable.dtype)
        index = self._get_variable_index(variable)
        mean, square = self._momentums[index], self._velocities[index]
        mean.assign(self.beta_1 * mean + (1 - self.beta_1) * gradient)
        square.assign(self.beta_2 * square + (1 - self.beta_2) * gradient * gradient)
        corrected = [1 - ops.exp(count * math.log(beta)) if beta else 1.0 for beta in (self.beta_1, self.beta_2)]
        update = mean / corrected[0] / (ops.sqrt(square / corrected[1]) + self.epsilon)
        if self.weight_decay and self._use_weight_decay(variable):
            update = update + self.weight_decay * variable
        variable.assign(variable - rate * update)

    def _apply_weight_decay(self, variables: Sequence[keras.Variable]) -> None:
        """Do nothing: `update_step` applies the decay."""


def optimizer(model: ResNet, recipe: Recipe) -> keras.optimizers.Optimizer:
    """Build the optimizer of a recipe, with its schedule."""
    rate, decay, clip = Schedule(recipe, model.variable_dtype), recipe.weight_decay, recipe.clip_norm
    if recipe.optimizer == "adamw":
        update = AdamW(rate, decay, recipe.beta1, recipe.beta2, recipe.eps, global_clipnorm=clip)
    else:
        update = Sgd(rate, recipe.momentum, recipe.nesterov, weight_decay=decay, global_clipnorm=clip)
    update.exclude_from_weight_decay([v for v in model.trainable_variables if not recipe.decays(len(v.shape))])
    update.build(model.trainable_variables)
    return update


@registered
class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """Schedule of a recipe: the learning rate of each step, counted from 0.

    Keras's `CosineDecay` warms up over one step more, from a rate before the first step.
    """

    def __init__(self, recipe: Recipe, dtype: str) -> None:
        self.recipe, self.dtype = recipe, dtype

    def __call__(self, step: Tensor) -> Tensor:
        recipe, step = self.recipe, ops.cast(step, self.dtype)
        factor = ops.ones((), self.dtype)
        if recipe.schedule == "cosine":
            done = (step - recipe.warmup_steps) / (recipe.total_steps - recipe.warmup_steps)
            factor = 0.5 * (1 + ops.cos(math.pi * ops.minimum(done, 1.0)))
        for milestone in recipe.milestones if recipe.schedule == "steps" else ():
            factor = ops.where(step < milestone, factor, recipe.gamma * factor)
        if recipe.warmup_steps:
            factor = ops.where(step < recipe.warmup_steps, (step + 1) / recipe.warmup_steps, factor)
        return recipe.learning_rate * factor

    def get_config(self) -> dict[str, Any]:
        return {"recipe": self.recipe.to_dict(), "dtype": self.dtype}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Schedule:
        return cls(Recipe.from_dict(config["recipe"]), config["dtype"])


class Training:
    """Training run of a model: its optimizer and schedule, and the number of steps taken.

    It compiles the model, so `model.fit` then trains in the same way.

    Args:
        model: Model to train, in place.
        recipe: Optimizer, schedule and loss.

    Attributes:
        steps: Number of steps taken.

    Example:
        >>> from impls.keras import resnet50
        >>> training = Training(resnet50("v1.5", num_classes=10), Recipe(learning_rate=0.01))
        >>> loss_before = training.step(keras.ops.ones((8, 64, 64, 3)), keras.ops.arange(8))
    """

    def __init__(self, model: ResNet, recipe: Recipe) -> None:
        self.model, self.recipe = model, recipe
        self.optimizer = optimizer(model, recipe)
        model.compile(self.optimizer, Loss(recipe, model.compute_dtype))

    @property
    def steps(self) -> int:
        """Number of steps taken."""
        return int(ops.convert_to_numpy(self.optimizer.iterations))

    def step(self, images: Tensor, labels: Tensor) -> float:
        """Take one step on a batch, and return the loss before it.

        Args:
            images: (batch, height, width, channels).
            labels: Integers (batch,).
        """
        self.model.reset_metrics()
        return float(self.model.train_on_batch(images, labels))

    def slots(self) -> dict[str, dict[str, keras.Variable]]:
        """Collect the variables of the optimizer by slot, as PyTorch names it, and by parameter name.

        Example: `training.slots()["momentum_buffer"]["conv1.kernel"]`.
        """
        positions = {id(variable): index for index, variable in enumerate(self.model.trainable_variables)}
        variables = named_variables(self.model, self.model.config, "keras")
        return {
            slot: {
                name: getattr(self.optimizer, SLOTS[slot].keras)[positions[id(variable)]]
                for name, variable in variables.items()
                if id(variable) in positions
            }
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
        self.optimizer.iterations.assign(steps)


def read_training(training: Training) -> TrainingState:
    """Copy a training run into a state: weights, optimizer slots, number of steps and recipe.

    The state can be saved, and resumed in this or another framework.

    Example:
        >>> from impls.keras import resnet50
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
