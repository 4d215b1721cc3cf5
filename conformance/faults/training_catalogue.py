"""The rows of gradients and of training: what no forward pass shows.

Faults of gradients have the places of the network; those of the loss, the optimizer and the schedule have none, and
stand at "network".
"""

from __future__ import annotations

from typing import Any

from conformance.faults import training_edits as edits
from conformance.faults.fault import PARAMETER, Fault, Parameter, Place, Remedies
from impls.config import ResNetConfig
from impls.recipe import Recipe

PASSES = Remedies(
    torch="Let no detach(), torch.no_grad() or .data stand between the loss and what is trained.",
    flax="Let no jax.lax.stop_gradient stand between the loss and what is trained.",
    keras="Let no ops.stop_gradient stand between the loss and what is trained, and compute it inside the tape.",
)
TRAINED = Remedies(
    torch="Leave requires_grad True, and give the optimizer every parameter.",
    flax="Differentiate with respect to every nnx.Param, and let wrt of nnx.Optimizer be the same filter.",
    keras="Leave trainable True, and hand every trainable variable to the tape and to the optimizer.",
)
STATISTICS = Remedies(
    torch="Use nn.BatchNorm2d, whose batch statistics are differentiated; by hand, do not detach mean and variance.",
    flax="Use nnx.BatchNorm, whose batch statistics are differentiated; by hand, put no stop_gradient on them.",
    keras="Use BatchNormalization, whose batch statistics are differentiated; by hand, put no stop_gradient on them.",
)
AT_ZERO = Remedies(
    torch="Use torch.relu: torch.maximum passes half the gradient at zero, where(x < 0, 0, x) all of it.",
    flax="Use nnx.relu: jnp.maximum passes half the gradient at zero.",
    keras="Use ops.relu: ops.maximum passes the whole gradient at zero on TensorFlow.",
)
AT_TIES = Remedies(
    torch="Use max_pool2d, whose gradient goes to one pixel of a window; amax shares it among equal ones.",
    flax="Use nnx.max_pool, whose gradient goes to one pixel of a window; jnp.max shares it among equal ones.",
    keras="Use ops.max_pool, whose gradient goes to one pixel of a window; ops.max shares it among equal ones.",
)
AVERAGED = Remedies(
    torch="Average the loss over the whole batch: cross_entropy's reduction is 'mean'; divide by the micro-batches.",
    flax="Average the loss over the whole batch: .mean(), and lax.pmean, not psum, over devices.",
    keras="Average the loss over the whole batch: reduction='sum_over_batch_size'; divide by replicas too.",
)
LOGITS = Remedies(
    torch="Give cross_entropy the logits: it holds the softmax.",
    flax="Give optax.softmax_cross_entropy the logits: it holds the softmax.",
    keras="Give the loss the logits and from_logits=True, or probabilities and from_logits=False.",
)
SMOOTHING = Remedies(
    torch="Set label_smoothing of cross_entropy: it spreads the share over all classes, the right one among them.",
    flax="Use optax.smooth_labels: it spreads the share over all classes, the right one among them.",
    keras="Set label_smoothing of CategoricalCrossentropy: it spreads the share over all classes.",
)
DECAY = Remedies(
    torch="weight_decay of torch.optim.SGD is L2's, of AdamW decoupled (default 0.01): set it and its groups.",
    flax="optax.sgd has no decay: put add_decayed_weights before it for L2's; optax.adamw's default is 1e-4.",
    keras="weight_decay of Keras's optimizers is decoupled, in SGD too: L2's has to be added to the gradient.",
)
DECAYED = Remedies(
    torch="Make two parameter groups: kernels (two or four axes) with weight_decay, all others with 0, or one for all.",
    flax="Give optax.add_decayed_weights or adamw a mask that says which parameters decay.",
    keras="Call exclude_from_weight_decay before the optimizer is built, with what is not to decay.",
)
MOMENTUM = Remedies(
    torch="Set momentum, nesterov and dampening of torch.optim.SGD (defaults 0, False, 0).",
    flax="Set momentum and nesterov of optax.sgd; optax.trace is a sum, optax.ema an average.",
    keras="Set momentum and nesterov of keras.optimizers.SGD (defaults 0, False); Keras rounds them to float32.",
)
VELOCITY = Remedies(
    torch="Let the rate multiply the velocity when the step is taken, as torch.optim.SGD does.",
    flax="Scale by the learning rate after optax.trace, as optax.sgd does.",
    keras="keras.optimizers.SGD keeps momentum * velocity - rate * gradient: override update_step.",
)
ADAM = Remedies(
    torch="torch.optim.AdamW corrects both means and adds eps (1e-8) after that to the root; set betas and eps.",
    flax="optax.adamw corrects both means and adds eps (1e-8) to the root; eps_root is inside it.",
    keras="keras.optimizers.AdamW has eps 1e-7, on the uncorrected root: override update_step.",
)
ADAM_DECAY = Remedies(
    torch="Use torch.optim.AdamW, not Adam: its decay is rate * weight_decay * weight, outside the gradient's means.",
    flax="Use optax.adamw, not add_decayed_weights before adam: the decay comes after scale_by_adam, before the rate.",
    keras="Use keras.optimizers.AdamW, not an L2 regulariser with Adam; its decay is multiplied by the rate.",
)
CLIPPING = Remedies(
    torch="Scale all gradients by norm / get_total_norm, if above; clip_grad_norm_ adds 1e-6 to the norm.",
    flax="Use optax.clip_by_global_norm; optax.clip is by value.",
    keras="Use global_clipnorm; clipnorm is one parameter's alone, clipvalue one number's.",
)
RATE = Remedies(
    torch="Set lr, and let the scheduler multiply just that.",
    flax="Set learning_rate, and let the schedule's peak be just that.",
    keras="Set learning_rate, and let the schedule's peak be just that.",
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
ONCE = Remedies(
    torch="Run the model in train mode once a step; torch.utils.checkpoint runs it again and updates statistics twice.",
    flax="Run the model in train mode once a step: no second forward pass for metrics, nor under nnx.remat.",
    keras="Run the model with training=True once a step: no second forward pass for metrics.",
)
ZEROED = Remedies(
    torch="Call optimizer.zero_grad() before each backward().",
    flax="Gradients are values here: hand nothing of the last step to the optimizer.",
    keras="Gradients are values here: hand nothing of the last step to the optimizer.",
)


def has_classes(place: Place, config: ResNetConfig) -> bool:
    """There is a classifier, so that there is a loss."""
    return config.num_classes > 1


def pads_alike_with_classes(place: Place, config: ResNetConfig) -> bool:
    """The same, and both sides padded alike, as the wrong text has it."""
    return has_classes(place, config) and not config.same_padding


def gradient(
    id: str, what: str, scopes: tuple[Any, ...], source: str, remedies: Remedies, text: Any, by_hand: Any, **more: Any
) -> Fault:
    """A fault of gradients: wrong text of the model in the frameworks, of the gradients in NumPy."""
    more = {"where": has_classes} | more
    return Fault(id, what, scopes, "G", source, remedies, sources=text, training=by_hand, **more)


def trained(id: str, what: str, seen_in: str, source: str, remedies: Remedies, **more: Any) -> Fault:
    """A fault of the loss, the optimizer or the schedule."""
    return Fault(id, what, ("network",), seen_in, source, remedies, where=has_classes, **more)


def decay_over_rate(recipe: Recipe, parameter: float) -> float:
    """AdamW's decay so large that the learning rate, by which it is multiplied, falls out; SGD's as it is."""
    return recipe.weight_decay / (recipe.learning_rate if recipe.optimizer == "adamw" else 1.0)


GRADIENTS = (
    gradient(
        "shortcut-detached",
        "no gradient through the shortcut",
        ("block", "network"),
        "-",
        PASSES,
        edits.SHORTCUT_DETACHED,
        edits.SHORTCUT_LOST,
    ),
    gradient(
        "branch-detached",
        "no gradient through the residual branch",
        ("block", "network"),
        "-",
        PASSES,
        edits.BRANCH_DETACHED,
        edits.BRANCH_LOST,
    ),
    gradient(
        "layers-before-frozen",
        "no gradient to the layers before a block, as where they run without one",
        ("block",),
        "-",
        PASSES,
        edits.BLOCK_DETACHED,
        edits.BLOCK_LOST,
    ),
    gradient(
        "features-frozen",
        "no gradient to anything but the classifier, as where the features are computed without one",
        ("head",),
        "-",
        PASSES,
        edits.FEATURES_DETACHED,
        edits.FEATURES_LOST,
    ),
    gradient(
        "statistics-detached",
        "the batch's mean and variance are constants to the gradient",
        ("norm", "network"),
        "-",
        STATISTICS,
        edits.STATISTICS_DETACHED,
        edits.STATISTICS_CONSTANT,
    ),
    gradient(
        "mean-detached",
        "the batch's mean is a constant to the gradient",
        ("norm", "network"),
        "-",
        STATISTICS,
        edits.MEAN_DETACHED,
        edits.MEAN_CONSTANT,
    ),
    gradient(
        "variance-detached",
        "the batch's variance is a constant to the gradient",
        ("norm", "network"),
        "-",
        STATISTICS,
        edits.VARIANCE_DETACHED,
        edits.VARIANCE_CONSTANT,
    ),
    gradient(
        "kernel-gradient-lost",
        "a kernel has no gradient",
        ("conv",),
        "-",
        TRAINED,
        edits.KERNEL_DETACHED,
        edits.KERNEL_LOST,
    ),
    gradient(
        "scale-gradient-lost",
        "a norm's scale has no gradient",
        ("norm", "network"),
        "-",
        TRAINED,
        edits.SCALE_DETACHED,
        edits.SCALE_LOST,
    ),
    gradient(
        "offset-gradient-lost",
        "a norm's offset has no gradient",
        ("norm", "network"),
        "-",
        TRAINED,
        edits.OFFSET_DETACHED,
        edits.OFFSET_LOST,
    ),
    gradient(
        "classifier-gradient-lost",
        "the classifier's matrix has no gradient",
        ("head",),
        "-",
        TRAINED,
        edits.CLASSIFIER_DETACHED,
        edits.CLASSIFIER_LOST,
    ),
    gradient(
        "classifier-bias-gradient-lost",
        "the classifier's bias has no gradient",
        ("head",),
        "-",
        TRAINED,
        edits.CLASSIFIER_BIAS_DETACHED,
        edits.CLASSIFIER_BIAS_LOST,
    ),
    gradient(
        "relu-grad-half",
        "ReLU's gradient at zero is 0.5: relu written as maximum(x, 0)",
        ("network",),
        "jax#2342, pytorch#56734",
        AT_ZERO,
        edits.RELU_BY_MAXIMUM,
        edits.relu_at_zero(0.5),
    ),
    gradient(
        "relu-grad-one",
        "ReLU's gradient at zero is 1: relu written as where(x < 0, 0, x), in TensorFlow as maximum(x, 0)",
        ("network",),
        "-",
        AT_ZERO,
        edits.RELU_BY_WHERE,
        edits.relu_at_zero(1.0),
    ),
    gradient(
        "pool-ties-averaged",
        "the max pool's gradient shared among equal pixels: the pool written as a maximum over slices",
        ("stem",),
        "tensorflow#4886, tensorflow#51682",
        AT_TIES,
        edits.POOL_AVERAGES_TIES,
        edits.TIES_AVERAGED,
        where=pads_alike_with_classes,
    ),
    gradient(
        "pool-ties-all",
        "the max pool's whole gradient to each of equal pixels",
        ("stem",),
        "Theano#5404",
        AT_TIES,
        edits.POOL_TO_ALL_TIES,
        edits.TIES_ALL,
        where=pads_alike_with_classes,
    ),
)

LOSS = (
    trained("loss-sum", "the loss summed over the batch, not averaged", "GO", "-", AVERAGED, training=edits.SUMMED),
    trained(
        "label-smoothing-missing",
        "no label smoothing",
        "GO",
        "-",
        SMOOTHING,
        recipe={"label_smoothing": 0.0},
    ),
    trained(
        "label-smoothing-over-others",
        "labels smoothed over the wrong classes only, not over all",
        "GO",
        "-",
        SMOOTHING,
        training=edits.SMOOTHED_OVER_OTHERS,
    ),
    trained(
        "softmax-twice",
        "a softmax before a loss that holds one",
        "GO",
        "lightning-bolts#654, tflearn#562",
        LOGITS,
        training=edits.SOFTMAX_TWICE,
    ),
    trained(
        "label-smoothing-other",
        "another share of label smoothing",
        "GO",
        "-",
        SMOOTHING,
        recipe={"label_smoothing": PARAMETER},
        parameter=Parameter("share", 0.06, (0.05, 0.3), positive=False),
    ),
    trained(
        "gradient-scaled",
        "gradients multiplied by some factor: summed over devices or micro-batches, or a loss scale not undone",
        "GO",
        "fairseq#5256, e2e_sae#70",
        AVERAGED,
        training=edits.SCALED,
        parameter=Parameter("factor", 2.0, (0.5, 8.0)),
    ),
)

SGD = (
    trained(
        "wd-decoupled",
        "SGD's weight decay decoupled, not L2's through the momentum",
        "O",
        "benchmark_resnet_classif#30",
        DECAY,
        training=edits.DECOUPLED,
    ),
    trained(
        "wd-on-norm",
        "weight decay on scales, offsets and biases too",
        "O",
        "flax examples/imagenet",
        DECAYED,
        recipe={"decayed": "all"},
    ),
    trained(
        "wd-on-kernels-only",
        "weight decay on kernels only, not on scales, offsets and biases",
        "O",
        "flax examples/imagenet",
        DECAYED,
        recipe={"decayed": "kernels"},
    ),
    trained("wd-missing", "no weight decay", "O", "-", DECAY, recipe={"weight_decay": 0.0}),
    trained(
        "nesterov-missing", "momentum without Nesterov's step ahead", "O", "-", MOMENTUM, recipe={"nesterov": False}
    ),
    trained(
        "nesterov-added",
        "Nesterov's step ahead, where plain momentum is meant",
        "O",
        "-",
        MOMENTUM,
        recipe={"nesterov": True},
    ),
    trained(
        "lr-in-velocity",
        "learning rate inside the velocity, which shows under a schedule",
        "O",
        "pytorch#1099, jax#1528",
        VELOCITY,
        training=edits.RATE_IN_VELOCITY,
    ),
    trained(
        "lr-in-velocity-negative",
        "learning rate inside the velocity, and the velocity downhill: Keras's own momentum",
        "O",
        "keras.optimizers.SGD",
        VELOCITY,
        training=edits.RATE_IN_VELOCITY_NEGATIVE,
    ),
    trained(
        "wd-other",
        "another weight decay",
        "O",
        "-",
        DECAY,
        recipe={"weight_decay": PARAMETER},
        parameter=Parameter("weight decay", 3e-4, (1e-4, 0.1)),
    ),
    trained(
        "sgd-momentum-other",
        "another momentum",
        "O",
        "-",
        MOMENTUM,
        recipe={"momentum": PARAMETER},
        parameter=Parameter("momentum", 0.85, (0.5, 0.95), positive=False),
    ),
    trained(
        "dampening",
        "the gradient enters the velocity with a share: dampening, which is 1 - momentum in a velocity that averages",
        "O",
        "-",
        MOMENTUM,
        training=edits.DAMPENED,
        parameter=Parameter("dampening", 0.9, (0.5,), positive=False),
    ),
)

ADAMW = (
    trained(
        "adam-eps",
        "Adam's eps 1e-7 for 1e-8",
        "O",
        "benchmark_resnet_classif, keras.optimizers",
        ADAM,
        recipe={"eps": 1e-7},
    ),
    trained(
        "adam-eps-uncorrected",
        "Adam's eps added to the root before it is corrected: eps / sqrt(1 - beta2**t)",
        "O",
        "keras#17391, tensorflow#35102, transformers#35504",
        ADAM,
        training=edits.EPS_ON_UNCORRECTED,
    ),
    trained("adam-eps-in-root", "Adam's eps inside the root", "O", "keras-radam#29", ADAM, training=edits.EPS_IN_ROOT),
    trained("adam-uncorrected", "Adam without bias correction", "O", "-", ADAM, training=edits.UNCORRECTED),
    trained("adam-beta2-099", "Adam's beta2 0.99 for 0.999", "O", "-", ADAM, recipe={"beta2": 0.99}),
    trained("adam-beta2-095", "Adam's beta2 0.95 for 0.999", "O", "-", ADAM, recipe={"beta2": 0.95}),
    trained(
        "adam-l2",
        "L2's decay through Adam's means, not decoupled",
        "O",
        "pytorch#3740, nntrainer#3565",
        ADAM_DECAY,
        training=edits.ADAM_L2,
    ),
    trained(
        "adamw-decay-not-times-rate",
        "AdamW's decay multiplied by the schedule's factor only, not by the learning rate",
        "O",
        "apex#1849",
        ADAM_DECAY,
        recipe={"weight_decay": decay_over_rate},
    ),
    trained(
        "adam-eps-other",
        "another eps of Adam's",
        "O",
        "-",
        ADAM,
        recipe={"eps": PARAMETER},
        parameter=Parameter("eps", 3e-6, (1e-7, 1e-5, 1e-3)),
    ),
    trained(
        "adam-beta1-other",
        "another beta1 of Adam's",
        "O",
        "-",
        ADAM,
        recipe={"beta1": PARAMETER},
        parameter=Parameter("beta1", 0.8, (0.5, 0.95), positive=False),
    ),
    trained(
        "adam-beta2-other",
        "another beta2 of Adam's",
        "O",
        "-",
        ADAM,
        recipe={"beta2": PARAMETER},
        parameter=Parameter("beta2", 0.98, (0.9, 0.99), positive=False),
    ),
)

CLIPPED = (
    trained("clip-missing", "gradients not clipped", "O", "-", CLIPPING, recipe={"clip_norm": None}),
    trained(
        "clip-by-value",
        "each number of the gradients clipped, not their norm together",
        "O",
        "-",
        CLIPPING,
        training=edits.CLIPPED_BY_VALUE,
    ),
    trained(
        "clip-one-by-one",
        "the gradient of each parameter clipped by its own norm, not all by that of all",
        "O",
        "keras#13575, tensorflow#29108, transformers#614",
        CLIPPING,
        training=edits.CLIPPED_ONE_BY_ONE,
    ),
    trained(
        "clip-a-little-more",
        "clipped to norm / (total + 1e-6)",
        "O",
        "torch.nn.utils.clip_grad_norm_",
        CLIPPING,
        training=edits.CLIPPED_A_LITTLE_MORE,
    ),
    trained(
        "clip-other",
        "clipped to another norm",
        "O",
        "-",
        CLIPPING,
        recipe={"clip_norm": PARAMETER},
        parameter=Parameter("norm", 0.7, (0.5, 5.0)),
    ),
)

SCHEDULES = (
    trained(
        "schedule-constant",
        "a constant learning rate: the schedule steps once an epoch, not once a step, or not at all",
        "O",
        "-",
        SCHEDULE,
        recipe={"schedule": "constant"},
    ),
    trained(
        "schedule-early",
        "the schedule one step ahead: it is stepped before the optimizer",
        "O",
        "pytorch-gradual-warmup-lr#11",
        SCHEDULE,
        training=edits.SCHEDULE_EARLY,
    ),
    trained("schedule-late", "the schedule one step behind", "O", "-", SCHEDULE, training=edits.SCHEDULE_LATE),
    trained("warmup-missing", "no warm-up", "O", "-", WARMUP, recipe={"warmup_steps": 0}),
    trained(
        "warmup-from-zero",
        "the warm-up begins with a step of no rate at all",
        "O",
        "gpt-neox#1373, barlowtwins#45, optax.warmup_cosine_decay_schedule",
        WARMUP,
        training=edits.WARMUP_FROM_ZERO,
    ),
    trained(
        "warmup-one-longer",
        "the warm-up over one step more: (s + 1) / (warmup_steps + 1)",
        "O",
        "HeavyBall#29",
        WARMUP,
        training=edits.WARMUP_ONE_LONGER,
    ),
    trained(
        "cosine-from-start",
        "the cosine counted from the first step, not from the end of the warm-up",
        "O",
        "-",
        SCHEDULE,
        training=edits.COSINE_FROM_START,
    ),
    trained(
        "milestones-late",
        "the rate falls one step late",
        "O",
        "-",
        SCHEDULE,
        recipe={"milestones": lambda recipe, _: tuple(step + 1 for step in recipe.milestones)},
    ),
    trained(
        "milestones-early",
        "the rate falls one step early",
        "O",
        "-",
        SCHEDULE,
        recipe={"milestones": lambda recipe, _: tuple(step - 1 for step in recipe.milestones)},
    ),
    trained(
        "learning-rate-scaled",
        "the learning rate multiplied by some factor",
        "O",
        "-",
        RATE,
        recipe={"learning_rate": lambda recipe, factor: factor * recipe.learning_rate},
        parameter=Parameter("factor", 0.65, (0.5, 2.0, 100.0)),
    ),
    trained(
        "cosine-end-other",
        "the cosine ends at another step",
        "O",
        "-",
        SCHEDULE,
        recipe={"total_steps": PARAMETER},
        parameter=Parameter("total steps", 10.0, (9.0, 16.0, 60.0)),
    ),
    trained(
        "gamma-other",
        "the rate falls by another factor",
        "O",
        "-",
        SCHEDULE,
        recipe={"gamma": PARAMETER},
        parameter=Parameter("gamma", 0.1, (0.2, 0.8)),
    ),
)

STEP = (
    trained(
        "statistics-twice",
        "running statistics updated twice a step: a second forward pass in train mode",
        "SO",
        "pytorch#96136, insightface#2053",
        ONCE,
        training=edits.STATISTICS_TWICE,
    ),
    trained(
        "gradients-kept",
        "gradients not set to zero between steps",
        "O",
        "-",
        ZEROED,
        training=edits.GRADIENTS_KEPT,
        keeps=True,
    ),
)

TRAINING: tuple[Fault, ...] = (*GRADIENTS, *LOSS, *SGD, *ADAMW, *CLIPPED, *SCHEDULES, *STEP)
"""In the order in which the diagnosis names what cannot be told apart."""
