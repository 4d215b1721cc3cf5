"""The facts of training, independent of any framework: optimizer, schedule and loss.

The same words mean different things in the three frameworks. `Recipe` states each fact once, with its formula; the
`training.py` of each framework sets up that framework's own optimizer to compute exactly this, and says where its
default differs.

Example:
    >>> from impls.recipe import Recipe
    >>> Recipe(learning_rate=0.5, schedule="cosine", warmup_steps=2, total_steps=10).rate(0)
    0.25
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how a network is trained, except its data.

    With `g` the gradient of a parameter `w` after clipping, `r` the learning rate of the step and `d` the weight decay:

    - "sgd": `v = momentum * v + (g + d * w)`, then `w -= r * v`; with `nesterov`,
      `w -= r * (g + d * w + momentum * v)`. This is PyTorch's form. The decay is an L2 penalty: it enters the velocity.
    - "adamw" (Loshchilov and Hutter 2017, arXiv:1711.05101): at step t = 1, 2, ...
      `m = beta1 * m + (1 - beta1) * g`, `s = beta2 * s + (1 - beta2) * g * g`, then
      `w -= r * (m / (1 - beta1**t) / (sqrt(s / (1 - beta2**t)) + eps) + d * w)`.

    `v`, `m` and `s` start at zero.

    Attributes:
        optimizer: "sgd" or "adamw".
        learning_rate: Learning rate that warm-up and schedule multiply by their factors.
        momentum: Share of the old velocity that is kept; sgd only.
        nesterov: Whether to use Nesterov's momentum (Nesterov 1983, in the form of Sutskever et al. 2013); sgd only.
        beta1: Share of the old mean of gradients that is kept; adamw only.
        beta2: Share of the old mean of squared gradients that is kept; adamw only.
        eps: Added to the square root of the mean of squares; adamw only.
        weight_decay: `d` above; 0 switches it off.
        decayed: Which parameters decay: "all", or "kernels", the weights of convolutions and classifier but no biases
            and no scales and offsets of norms.
        schedule: "constant"; "cosine", a factor that falls from 1 at the end of the warm-up to 0 at `total_steps`
            (Loshchilov and Hutter 2016, arXiv:1608.03983); or "steps", multiplied by `gamma` at each milestone.
        warmup_steps: Number of steps over which the rate rises linearly: step s, counted from 0, has the share
            (s + 1) / warmup_steps of it (Goyal et al. 2017, arXiv:1706.02677).
        total_steps: Step at which the cosine ends.
        milestones: Steps, counted from 0, from which on the rate is multiplied by `gamma` once more.
        gamma: Factor at each milestone.
        label_smoothing: Share of the target that is spread evenly over all classes, the labelled one included (Szegedy
            et al. 2015, arXiv:1512.00567).
        clip_norm: Largest norm of all gradients together; larger gradients are scaled down to it. None does not clip.

    Raises:
        ValueError: If fields have values that cannot be trained with; the message lists all of them.

    Example:
        >>> recipe = Recipe(learning_rate=0.5, nesterov=True, schedule="cosine", total_steps=100)
        >>> recipe.rate(0), recipe.rate(50)
        (0.5, 0.25)
    """

    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    decayed: Literal["all", "kernels"] = "all"
    schedule: Literal["constant", "cosine", "steps"] = "constant"
    warmup_steps: int = 0
    total_steps: int = 0
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    label_smoothing: float = 0.0
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        share = "at least 0 and below 1"
        problems = [
            f"{name} must be {requirement}, not {getattr(self, name)!r}"
            for name, requirement, fulfilled in (
                ("optimizer", "'sgd' or 'adamw'", self.optimizer in ("sgd", "adamw")),
                ("learning_rate", "positive", self.learning_rate > 0),
                ("momentum", share, 0 <= self.momentum < 1),
                ("nesterov", "False without momentum", self.momentum > 0 or not self.nesterov),
                ("beta1", share, 0 <= self.beta1 < 1),
                ("beta2", share, 0 <= self.beta2 < 1),
                ("eps", "positive", self.eps > 0),
                ("weight_decay", "at least 0", self.weight_decay >= 0),
                ("decayed", "'all' or 'kernels'", self.decayed in ("all", "kernels")),
                ("schedule", "'constant', 'cosine' or 'steps'", self.schedule in ("constant", "cosine", "steps")),
                ("warmup_steps", "at least 0", self.warmup_steps >= 0),
                (
                    "total_steps",
                    "more than warmup_steps for the cosine schedule",
                    self.schedule != "cosine" or self.total_steps > self.warmup_steps,
                ),
                (
                    "milestones",
                    "ascending steps after the warm-up",
                    list(self.milestones) == sorted(set(self.milestones))
                    and min(self.milestones, default=self.warmup_steps) >= self.warmup_steps,
                ),
                ("label_smoothing", share, 0 <= self.label_smoothing < 1),
                ("clip_norm", "positive or None", self.clip_norm is None or self.clip_norm > 0),
            )
            if not fulfilled
        ]
        if problems:
            raise ValueError("; ".join(problems))

    def rate(self, step: int) -> float:
        """Compute the learning rate of a step, counted from 0.

        Example:
            >>> recipe = Recipe(learning_rate=1.0, schedule="steps", warmup_steps=2, milestones=(4,), gamma=0.5)
            >>> [recipe.rate(step) for step in range(6)]
            [0.5, 1.0, 1.0, 1.0, 0.5, 0.5]
        """
        return self.learning_rate * self.factor(step)

    def factor(self, step: int) -> float:
        """Compute the factor by which schedule and warm-up multiply the learning rate at a step, counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.schedule == "cosine":
            progress = min(1.0, (step - self.warmup_steps) / (self.total_steps - self.warmup_steps))
            return 0.5 * (1 + math.cos(math.pi * progress))
        if self.schedule == "steps":
            return float(self.gamma ** sum(milestone <= step for milestone in self.milestones))
        return 1.0

    def decays(self, dimensions: int) -> bool:
        """Tell whether weight decay acts on a parameter with so many axes: kernels have two or four, all others one."""
        return self.weight_decay > 0 and (self.decayed == "all" or dimensions > 1)

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the arrays that the optimizer keeps per parameter, as PyTorch calls them.

        They are the keys of `weights_convert.table.SLOTS`: "momentum_buffer" is `v` above, "exp_avg" `m`, and
        "exp_avg_sq" `s`.
        """
        if self.optimizer == "adamw":
            return ("exp_avg", "exp_avg_sq")
        return ("momentum_buffer",) if self.momentum else ()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values that JSON can hold."""
        return asdict(self) | {"milestones": list(self.milestones)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """Build a recipe from the values that `to_dict` returned.

        Raises:
            ValueError: If a field is missing, unknown, of another type or impossible.

        Example:
            >>> Recipe.from_dict(Recipe(milestones=(3, 6)).to_dict()) == Recipe(milestones=(3, 6))
            True
        """
        known = [field.name for field in fields(cls)]
        if set(values) != set(known):
            raise ValueError(f"expected the fields {sorted(known)}, got {sorted(values)}")
        try:
            return cls(**(values | {"milestones": tuple(values["milestones"])}))
        except TypeError as error:
            raise ValueError(f"a field of the recipe has a value of the wrong type: {error}") from error
