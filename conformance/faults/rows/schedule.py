"""The learning rate and its schedule: warm-up, milestones, cosine, off by one step."""

from __future__ import annotations

from functools import partial

from conformance.faults.fault import Parameter, step_fault
from conformance.faults.remedies import Remedies

RATE = Remedies(
    torch="Set lr, and let the scheduler multiply nothing but that.",
    flax="Set learning_rate, and let it be the peak of the schedule.",
    keras="Set learning_rate, and let it be the peak of the schedule.",
)
SCHEDULE = Remedies(
    torch="Call scheduler.step() once after each optimizer.step(), and count the milestones in steps from 0.",
    flax="Count in steps: optax's schedule sees the updates taken before; boundaries are after the warm-up's.",
    keras="Count in steps, from 0: a LearningRateSchedule sees the optimizer's iterations before the step.",
)
WARMUP = Remedies(
    torch="Give step s, counted from 0, (s + 1) / warmup_steps of the rate: LinearLR(start_factor=1 / warmup_steps).",
    flax="Begin linear_schedule at rate / warmup_steps: warmup_cosine_decay_schedule begins at init_value, often 0.",
    keras="Give step s, counted from 0, (s + 1) / warmup_steps of the rate: CosineDecay's warm-up begins before it.",
)

FLAX_WARMUP = "optax.linear_schedule(rate / max(1, recipe.warmup_steps), rate, recipe.warmup_steps - 1)"
FLAX_COUNT = "joined(jnp.asarray(count, float))"
KERAS_WARMUP = "(step + 1) / recipe.warmup_steps"
KERAS_STEP = "ops.cast(step, self.dtype)"
STEPS = "recipe.warmup_steps"


def factor(formula: str) -> dict[str, tuple[str, str]]:
    """Another formula of `recipe` and `step` for the factor on the learning rate, in NumPy and PyTorch."""
    return {
        "numpy": (
            "rate = self.recipe.rate(self.steps)",
            f"recipe, step = self.recipe, self.steps\n        rate = recipe.learning_rate * ({formula})",
        ),
        "torch": ("LambdaLR(optimizer, recipe.factor, ", f"LambdaLR(optimizer, lambda step: {formula}, "),
    }


schedule_fault = partial(step_fault, remedies=SCHEDULE)
warmup_fault = partial(step_fault, remedies=WARMUP)

ROWS = {
    "schedule-constant": schedule_fault(
        what="the learning rate stays constant: the schedule is stepped once an epoch or never, not once a step",
        recipe={"schedule": "constant"},
    ),
    "schedule-early": schedule_fault(
        what="the schedule is one step ahead: it is stepped before the optimizer",
        **factor("recipe.factor(step + 1)"),
        flax=(FLAX_COUNT, "joined(jnp.asarray(count, float) + 1)"),
        keras=(KERAS_STEP, "ops.cast(step, self.dtype) + 1"),
        source="pytorch-gradual-warmup-lr#11",
    ),
    "schedule-late": schedule_fault(
        what="the schedule is one step behind",
        **factor("recipe.factor(max(0, step - 1))"),
        flax=(FLAX_COUNT, "joined(jnp.maximum(jnp.asarray(count, float) - 1, 0.0))"),
        keras=(KERAS_STEP, "ops.maximum(ops.cast(step, self.dtype) - 1, 0.0)"),
    ),
    "warmup-missing": warmup_fault(what="there is no warm-up", recipe={"warmup_steps": 0}),
    "warmup-from-zero": warmup_fault(
        what="the warm-up begins with a step whose learning rate is zero",
        **factor(f"step / {STEPS} if step < {STEPS} else recipe.factor(step)"),
        flax=(FLAX_WARMUP, f"optax.linear_schedule(0.0, rate, {STEPS})"),
        keras=(KERAS_WARMUP, f"step / {STEPS}"),
        source="gpt-neox#1373, barlowtwins#45, optax.warmup_cosine_decay_schedule",
    ),
    "warmup-one-longer": warmup_fault(
        what="the warm-up rises over one step more: (s + 1) / (warmup_steps + 1)",
        **factor(f"(step + 1) / ({STEPS} + 1) if step < {STEPS} else recipe.factor(step)"),
        flax=(
            FLAX_WARMUP,
            f"optax.linear_schedule(rate / ({STEPS} + 1), rate * {STEPS} / ({STEPS} + 1), {STEPS} - 1)",
        ),
        keras=(KERAS_WARMUP, f"(step + 1) / ({STEPS} + 1)"),
        source="HeavyBall#29",
    ),
    "cosine-from-start": schedule_fault(
        what="the cosine is counted from the first step, not from the end of the warm-up",
        **factor(
            'type(recipe)(**vars(recipe) | {"warmup_steps": 0}).factor(step) '
            f'if recipe.schedule == "cosine" and step >= {STEPS} else recipe.factor(step)'
        ),
        flax=(
            '"cosine": lambda: optax.cosine_decay_schedule(rate, steps),',
            '"cosine": lambda: (\n'
            "            lambda count: optax.cosine_decay_schedule(rate, recipe.total_steps)"
            "(count + recipe.warmup_steps)\n"
            "        ),",
        ),
        keras=(
            "done = (step - recipe.warmup_steps) / (recipe.total_steps - recipe.warmup_steps)",
            "done = step / recipe.total_steps",
        ),
    ),
    "milestones-late": schedule_fault(
        what="the learning rate falls one step late",
        recipe={"milestones": lambda recipe, _: tuple(step + 1 for step in recipe.milestones)},
    ),
    "milestones-early": schedule_fault(
        what="the learning rate falls one step early",
        recipe={"milestones": lambda recipe, _: tuple(step - 1 for step in recipe.milestones)},
    ),
    "learning-rate-scaled": step_fault(
        what="the learning rate is multiplied by some factor",
        recipe={"learning_rate": lambda recipe, factor: factor * recipe.learning_rate},
        unknown=Parameter("factor", injected=0.65, starts=(0.5, 2.0, 100.0)),
        remedies=RATE,
    ),
    "cosine-end-other": schedule_fault(
        what="the cosine ends at an unusual step",
        recipe={"total_steps": Parameter("total steps", injected=10.0, starts=(9.0, 16.0, 60.0))},
    ),
    "gamma-other": schedule_fault(
        what="the learning rate falls by another factor at the milestones",
        recipe={"gamma": Parameter("gamma", injected=0.1, starts=(0.2, 0.8))},
    ),
}
