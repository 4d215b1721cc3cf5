"""The recipes that training steps are compared under: each optimizer, and each thing that libraries do differently."""

from __future__ import annotations

from impls.recipe import Recipe

TASKS = ("forward", "gradients", "steps", "initialisation")
"""What can be compared: activations; gradients of the loss; training steps, of which a case's recipe says how; what the
weights are drawn from where none are given."""

PRECISIONS = ("float64", "float32")
"""float64 shows that the mathematics is the same; float32 that the arithmetic is as good as it can be."""

STEPS = 8
"""Steps that are taken; the state is compared after the first and after the last."""

LOSS = Recipe(label_smoothing=0.1)
"""What gradients are taken of."""

RECIPES: dict[str, Recipe] = {
    "sgd": Recipe(learning_rate=0.02, weight_decay=1e-4, schedule="steps", milestones=(3, 6), gamma=0.5),
    "nesterov": Recipe(
        learning_rate=0.02,
        nesterov=True,
        weight_decay=1e-4,
        decayed="kernels",
        schedule="cosine",
        warmup_steps=2,
        total_steps=12,
        label_smoothing=0.1,
        clip_norm=1.0,
    ),
    "adamw": Recipe(
        optimizer="adamw",
        learning_rate=1e-4,
        weight_decay=0.05,
        decayed="kernels",
        schedule="cosine",
        warmup_steps=2,
        total_steps=12,
    ),
}
"""By the name that cases have."""
