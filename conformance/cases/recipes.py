"""The recipes that training steps are compared under: each optimizer, and each thing that libraries do differently."""

from __future__ import annotations

from impls.recipe import Recipe

STEPS = 8
"""Number of steps; the state is compared after the first and after the last."""

LOSS = Recipe(label_smoothing=0.1)
"""Recipe whose loss gradients are taken of."""

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
"""Recipes of training steps by the name that cases have."""
