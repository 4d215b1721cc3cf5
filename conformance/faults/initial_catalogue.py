"""The rows of initialisation: what a network that is given no weights is drawn from, where that is something else.

All stand at "network". A row is one of all convolutions, of the classifier, or of the last norms of the blocks: a port
that leaves convolutions and classifier to its framework has two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from conformance.faults.edit import by_framework, replaced
from conformance.faults.fault import FRAMEWORKS, VALUE, Edits, Fault, Parameter, Place, Remedies
from conformance.faults.training_catalogue import has_classes
from impls.config import ResNetConfig

CUT = "0.87962566103423978"
"""The deviation of standard normal numbers that are drawn again until they are within two deviations."""


@dataclass(frozen=True)
class Weight:
    """How a layer's helper draws the weight, by framework; and the fans of the layer in its words."""

    lines: Mapping[str, str]
    fan_in: str
    fan_out: str

    def drawn(self, **lines: str) -> Mapping[str, Edits]:
        """Substitutions by which it is drawn otherwise."""
        edits = {framework: [(self.lines[framework], line)] for framework, line in lines.items()}
        if "truncated(" in lines["numpy"]:
            edits["numpy"].append((CONV_HEAD, TRUNCATED + CONV_HEAD))
        return by_framework(**edits)

    def scaled(self, scale: float, mode: str, distribution: str, torch: str = "") -> Mapping[str, Edits]:
        """The same by what Flax and Keras call variance scaling: the variance is scale / fan.

        Args:
            scale: 2 for layers before a ReLU.
            mode: "fan_in", "fan_out" or "fan_avg".
            distribution: "normal", "uniform" or "truncated_normal", which makes up for what it cuts off.
            torch: PyTorch's own name for it, if it has one, and the arguments.
        """
        fans = {"fan_in": self.fan_in, "fan_out": self.fan_out, "fan_avg": f"({self.fan_in} + {self.fan_out}) / 2"}
        deviation = f"({scale} / ({fans[mode]})) ** 0.5"
        numpy = {
            "normal": f"rng.standard_normal(shape) * {deviation}",
            "uniform": f"rng.uniform(-(3**0.5), 3**0.5, shape) * {deviation}",
            "truncated_normal": f"truncated(rng, shape) * {deviation} / {CUT}",
        }
        keras = {"normal": "untruncated_normal"}.get(distribution, distribution)
        return self.drawn(
            numpy=numpy[distribution],
            torch=f"nn.init.{torch}, generator=rng)" if torch else torch_truncated(f"{deviation} / {CUT}"),
            flax=f'nnx.initializers.variance_scaling({scale}, "{mode}", "{distribution}")',
            keras=f'keras.initializers.VarianceScaling({scale}, "{mode}", "{keras}", seed=seeds)',
        )

    def normal(self, deviation: str) -> Mapping[str, Edits]:
        """The same, normal with a deviation."""
        return self.drawn(
            numpy=f"rng.standard_normal(shape) * {deviation}",
            torch=f"nn.init.normal_(layer.weight, std={deviation}, generator=rng)",
            flax=f"nnx.initializers.normal({deviation})",
            keras=f"keras.initializers.RandomNormal(stddev={deviation}, seed=seeds)",
        )


CONV_HEAD = "def conv(\n"
TRUNCATED = """\
def truncated(rng, shape):
    drawn = rng.standard_normal(shape)
    while (far := np.abs(drawn) > 2).any():
        drawn[far] = rng.standard_normal(far.sum())
    return drawn


"""
"""What NumPy's model has no function for, put before the first of its helpers that draw."""


def torch_truncated(deviation: str) -> str:
    """A normal distribution that is cut at two deviations."""
    return f"nn.init.trunc_normal_(layer.weight, 0.0, (d := {deviation}), -2 * d, 2 * d, generator=rng)"


CONV = Weight(
    {
        "numpy": "rng.standard_normal(shape) * np.sqrt(2 / (out_channels * kernel**2))",
        "torch": 'nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu", generator=rng)',
        "flax": "normal(math.sqrt(2 / (out_channels * kernel**2)))",
        "keras": 'keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal", seed=seeds)',
    },
    "in_channels * kernel**2",
    "out_channels * kernel**2",
)
RIGHT = f"(2 / ({CONV.fan_out})) ** 0.5"
"""The deviation of a convolution."""

LINEAR = Weight(
    {
        "numpy": "rng.standard_normal(shape) * 0.01",
        "torch": "nn.init.normal_(layer.weight, std=0.01, generator=rng)",
        "flax": "normal(0.01)",
        "keras": "keras.initializers.RandomNormal(stddev=0.01, seed=seeds)",
    },
    "in_features",
    "out_features",
)


def uniform_bias(fan_in: str, zeros: Mapping[str, str], after: str) -> Mapping[str, Edits]:
    """A bias uniform up to 1 / sqrt(fan-in), as torch.nn draws it.

    Args:
        fan_in: Of the layer.
        zeros: NumPy's and PyTorch's words for a bias that starts at zero.
        after: The argument that Flax's and Keras's words, which are new, are put behind.
    """
    bound = f"1 / ({fan_in}) ** 0.5"
    drawn = f"rng.uniform(-1, 1, {zeros['numpy'].removeprefix('np.zeros')}) * {bound}"
    flax = f"lambda key, shape, dtype, *_, **__: {bound} * jax.random.uniform(key, shape, dtype, -1, 1)"
    keras = f"keras.initializers.RandomUniform(-{bound}, {bound}, seed=seeds)"
    uniform = zeros["torch"].replace("zeros_(layer.bias)", f"uniform_(layer.bias, -{bound}, {bound}, generator=rng)")
    return by_framework(
        numpy=(zeros["numpy"], f"({zeros['numpy']} if rng is BLANK else {drawn})"),
        torch=(zeros["torch"], uniform),
        flax=(after, f"{after}        bias_init={flax},\n"),
        keras=(after, f"{after}        bias_initializer={keras},\n"),
    )


def together(*several: Mapping[str, Edits]) -> Mapping[str, Edits]:
    """Substitutions one after the other."""
    return {framework: tuple(edit for edits in several for edit in edits[framework]) for framework in FRAMEWORKS}


CONV_BIAS = uniform_bias(
    CONV.fan_in,
    {"numpy": "np.zeros(out_channels)", "torch": "\n        nn.init.zeros_(layer.bias)\n"},
    "        use_bias=config.conv_bias,\n",
)
LINEAR_BIAS = uniform_bias(
    LINEAR.fan_in,
    {"numpy": "np.zeros(out_features)", "torch": "\n    nn.init.zeros_(layer.bias)\n"},
    "        out_features,\n",
)

CONVOLUTIONS = Remedies(
    torch='Call nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu"), and zero the bias.',
    flax='Give nnx.Conv kernel_init=variance_scaling(2.0, "fan_out", "normal"): its default is lecun_normal.',
    keras='Give Conv2D VarianceScaling(2.0, "fan_out", "untruncated_normal"): its default is glorot_uniform.',
)
CLASSIFIER = Remedies(
    torch="Call nn.init.normal_(fc.weight, std=0.01) and nn.init.zeros_(fc.bias): nn.Linear draws both by itself.",
    flax="Give nnx.Linear kernel_init=nnx.initializers.normal(0.01): its default is lecun_normal.",
    keras="Give Dense kernel_initializer=RandomNormal(stddev=0.01): its default is glorot_uniform.",
)
LAST_SCALE = Remedies(
    torch="Start bn3.weight of every block at what the recipe wants: ones, or by Goyal et al. zeros.",
    flax="Start bn3.scale of every block at what the recipe wants: ones, or by Goyal et al. zeros.",
    keras="Start bn3.gamma of every block at what the recipe wants: ones, or by Goyal et al. zeros.",
)


def initial(id: str, what: str, source: str, remedies: Remedies, edits: Mapping[str, Edits], **more: Any) -> Fault:
    """A fault of initialisation."""
    return Fault(id, what, ("network",), "I", source, remedies, initial=edits, **more)


def starts_at_one(place: Place, config: ResNetConfig) -> bool:
    """The last scale of each block should start at one."""
    return not config.zero_init_last_scale


OF_CONVOLUTIONS = (
    initial(
        "init-torch",
        "convolutions left as torch.nn draws them: uniform up to 1 / sqrt(fan-in), biases too",
        "pytorch#15314",
        CONVOLUTIONS,
        together(CONV.scaled(1 / 3, "fan_in", "uniform", "kaiming_uniform_(layer.weight, a=5**0.5"), CONV_BIAS),
    ),
    initial(
        "init-flax",
        "convolutions left as Flax draws them: lecun_normal, truncated, variance 1 / fan-in",
        "the Flax ImageNet example",
        CONVOLUTIONS,
        CONV.scaled(1.0, "fan_in", "truncated_normal"),
    ),
    initial(
        "init-keras",
        "convolutions left as Keras draws them: glorot_uniform, variance 2 / (fan-in + fan-out)",
        "keras.applications",
        CONVOLUTIONS,
        CONV.scaled(1.0, "fan_avg", "uniform", "xavier_uniform_(layer.weight"),
    ),
    initial(
        "init-fan-in",
        "convolutions normal by fan-in, not fan-out",
        "-",
        CONVOLUTIONS,
        CONV.scaled(2.0, "fan_in", "normal", 'kaiming_normal_(layer.weight, nonlinearity="relu"'),
    ),
    initial(
        "init-he-normal",
        "convolutions by Keras's he_normal: truncated, and by fan-in",
        "-",
        CONVOLUTIONS,
        CONV.scaled(2.0, "fan_in", "truncated_normal"),
    ),
    initial(
        "init-he-uniform",
        "convolutions by he_uniform: uniform, and by fan-in",
        "-",
        CONVOLUTIONS,
        CONV.scaled(2.0, "fan_in", "uniform", 'kaiming_uniform_(layer.weight, nonlinearity="relu"'),
    ),
    initial(
        "init-glorot-normal",
        "convolutions by glorot_normal, not truncated: variance 2 / (fan-in + fan-out)",
        "-",
        CONVOLUTIONS,
        CONV.scaled(1.0, "fan_avg", "normal", "xavier_normal_(layer.weight"),
    ),
    initial(
        "init-gain-missing",
        "convolutions without the gain of ReLU: variance 1 / fan-out",
        "-",
        CONVOLUTIONS,
        CONV.scaled(1.0, "fan_out", "normal", 'kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="linear"'),
    ),
    initial(
        "init-truncated",
        "convolutions truncated at two deviations, of the right variance",
        "-",
        CONVOLUTIONS,
        CONV.scaled(2.0, "fan_out", "truncated_normal"),
    ),
    initial(
        "init-truncated-narrower",
        "convolutions truncated at two deviations, which nothing makes up for: 0.77 of the variance",
        "-",
        CONVOLUTIONS,
        CONV.drawn(
            numpy=f"truncated(rng, shape) * {RIGHT}",
            torch=torch_truncated(RIGHT),
            flax=f"nnx.initializers.truncated_normal({RIGHT})",
            keras=f"keras.initializers.TruncatedNormal(stddev={RIGHT}, seed=seeds)",
        ),
    ),
    initial(
        "init-uniform",
        "convolutions uniform, of the right variance",
        "-",
        CONVOLUTIONS,
        CONV.scaled(2.0, "fan_out", "uniform", 'kaiming_uniform_(layer.weight, mode="fan_out", nonlinearity="relu"'),
    ),
    initial(
        "init-fixed",
        "convolutions normal with one deviation for all",
        "-",
        CONVOLUTIONS,
        CONV.normal(VALUE),
        parameter=Parameter("deviation", 0.02, (0.02,)),
    ),
    initial(
        "init-scaled",
        "convolutions multiplied by some factor",
        "-",
        CONVOLUTIONS,
        CONV.normal(f"{VALUE} * {RIGHT}"),
        parameter=Parameter("factor", 0.5, (0.8,)),
    ),
)

OF_THE_REST = (
    initial(
        "init-classifier-torch",
        "the classifier left as torch.nn draws it: uniform up to 1 / sqrt(fan-in), the bias too",
        "torchvision",
        CLASSIFIER,
        together(LINEAR.scaled(1 / 3, "fan_in", "uniform", "kaiming_uniform_(layer.weight, a=5**0.5"), LINEAR_BIAS),
        where=has_classes,
    ),
    initial(
        "init-classifier-flax",
        "the classifier left as Flax draws it: lecun_normal, truncated, variance 1 / fan-in",
        "the Flax ImageNet example",
        CLASSIFIER,
        LINEAR.scaled(1.0, "fan_in", "truncated_normal"),
        where=has_classes,
    ),
    initial(
        "init-classifier-keras",
        "the classifier left as Keras draws it: glorot_uniform, variance 2 / (fan-in + fan-out)",
        "keras.applications",
        CLASSIFIER,
        LINEAR.scaled(1.0, "fan_avg", "uniform", "xavier_uniform_(layer.weight"),
        where=has_classes,
    ),
    initial(
        "init-classifier-other",
        "the classifier normal with another deviation than 0.01",
        "-",
        CLASSIFIER,
        LINEAR.normal(VALUE),
        where=has_classes,
        parameter=Parameter("deviation", 0.02, (0.02,)),
    ),
    initial(
        "init-last-scale-zero",
        "the last scale of each block starting at zero, not one",
        "Goyal et al. 2017, section 5.1",
        LAST_SCALE,
        replaced("scale=0.0 if config.zero_init_last_scale else 1.0", "scale=0.0"),
        where=starts_at_one,
    ),
)

INITIAL: tuple[Fault, ...] = (*OF_CONVOLUTIONS, *OF_THE_REST)
"""In the order in which the diagnosis names what cannot be told apart."""
