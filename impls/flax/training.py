"""Train ResNet-50 in Flax (NNX), with optax set up to compute what `impls.recipe` states.

`impls/torch/training.py` and `impls/keras/training.py` have the same functions; read them side by side.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array
from optax.tree_utils import tree_get, tree_get_all_with_path

from impls.flax.resnet import ResNet
from impls.flax.state import read_variables, read_weights, write_variables, write_weights
from impls.recipe import Recipe
from weights_convert import Checkpoint, TrainingState, load_training
from weights_convert.table import SLOTS


def loss(logits: Array, labels: Array, recipe: Recipe) -> Array:
    """Compute the cross-entropy of logits (batch, classes) with integer labels (batch,), averaged over the batch.

    The labels are smoothed as the recipe states.
    """
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype), recipe.label_smoothing)
    return optax.softmax_cross_entropy(logits, targets).mean()


def optimizer(model: ResNet, recipe: Recipe) -> nnx.Optimizer[ResNet]:
    """Build the optimizer of a recipe, with its schedule.

    `optax.sgd` has no decay. `optax.add_decayed_weights` before it makes decay enter the velocity, as in PyTorch.
    """
    decay = recipe.weight_decay
    decays = partial(jax.tree.map, lambda parameter: recipe.decays(parameter.ndim))
    clip = optax.identity() if recipe.clip_norm is None else optax.clip_by_global_norm(recipe.clip_norm)
    if recipe.optimizer == "adamw":
        update = optax.adamw(schedule(recipe), recipe.beta1, recipe.beta2, recipe.eps, weight_decay=decay, mask=decays)
    else:
        sgd = optax.sgd(schedule(recipe), recipe.momentum or None, recipe.nesterov)
        update = optax.chain(optax.add_decayed_weights(decay, decays), sgd)
    return nnx.Optimizer(model, optax.chain(clip, update), wrt=nnx.Param)


def schedule(recipe: Recipe) -> optax.Schedule:
    """Schedule of a recipe: the learning rate of each step, counted from 0.

    `optax.warmup_cosine_decay_schedule` would take the first step at its initial rate, which is often 0. The step is
    a float here, since JAX computes the rate of an int32 step in float32, whatever `jax_enable_x64` says.
    """
    rate, steps = recipe.learning_rate, recipe.total_steps - recipe.warmup_steps
    milestones = {milestone - recipe.warmup_steps: recipe.gamma for milestone in recipe.milestones}
    after = {
        "constant": lambda: optax.constant_schedule(rate),
        "cosine": lambda: optax.cosine_decay_schedule(rate, steps),
        "steps": lambda: optax.piecewise_constant_schedule(rate, milestones),
    }[recipe.schedule]()
    warmup = optax.linear_schedule(rate / max(1, recipe.warmup_steps), rate, recipe.warmup_steps - 1)
    joined = optax.join_schedules([warmup, after], [recipe.warmup_steps])
    return lambda count: joined(jnp.asarray(count, float))


def take_step(model: ResNet, optimizer: nnx.Optimizer[ResNet], images: Array, labels: Array, recipe: Recipe) -> Array:
    """Take one step, and return the loss before it."""
    value, gradients = nnx.value_and_grad(lambda model: loss(model(images), labels, recipe))(model)
    optimizer.update(model, gradients)
    return value


train_step: Callable[..., Array] = nnx.jit(take_step, static_argnums=4)
"""`take_step`, compiled once for each recipe and each shape of the images."""


class Training:
    """Training run of a model: its optimizer and schedule, and the number of steps taken.

    Args:
        model: Model to train, in place.
        recipe: Optimizer, schedule and loss.

    Attributes:
        steps: Number of steps taken.

    Example:
        >>> from impls.flax import resnet50
        >>> training = Training(resnet50("v1.5", num_classes=10), Recipe(learning_rate=0.01))
        >>> loss_before = training.step(jnp.ones((8, 64, 64, 3)), jnp.arange(8))
    """

    def __init__(self, model: ResNet, recipe: Recipe) -> None:
        self.model, self.recipe = model, recipe
        self.optimizer = optimizer(model, recipe)

    @property
    def steps(self) -> int:
        """Number of steps taken."""
        return int(self.optimizer.step[...])

    def step(self, images: Array, labels: Array) -> float:
        """Take one step on a batch, and return the loss before it; the model is left in train mode.

        Args:
            images: (batch, height, width, channels).
            labels: Integers (batch,).
        """
        take_step = self.take_step
        if self.model.bn1.use_running_average:
            self.model.train()  # type: ignore[no-untyped-call]
        return float(take_step(images, labels, self.recipe))

    @cached_property
    def take_step(self) -> Callable[..., Array]:
        """`train_step` of this model and optimizer, in train mode; their graphs are traversed once for all steps."""
        self.model.train()  # type: ignore[no-untyped-call]
        return nnx.cached_partial(train_step, self.model, self.optimizer)

    def slots(self) -> dict[str, dict[str, nnx.Variable[Array]]]:
        """Collect the variables of the optimizer by slot, as PyTorch names it, and by parameter name.

        Example: `training.slots()["momentum_buffer"]["conv1.kernel"]`.
        """
        return {
            slot: {
                ".".join(map(str, path)): variable
                for path, variable in nnx.to_flat_state(tree_get(self.optimizer.opt_state, SLOTS[slot].flax))
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
        for _, counter in tree_get_all_with_path(self.optimizer.opt_state, "count"):
            counter[...] = jnp.asarray(steps, counter[...].dtype)
        self.optimizer.step[...] = jnp.asarray(steps, self.optimizer.step[...].dtype)


def read_training(training: Training) -> TrainingState:
    """Copy a training run into a state: weights, optimizer slots, number of steps and recipe.

    The state can be saved, and resumed in this or another framework.

    Example:
        >>> from impls.flax import resnet50
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
