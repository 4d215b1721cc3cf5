"""Initialisation: the distributions that a network without given weights draws them from.

A row is about all convolutions, the classifier, or the last norms of the blocks: a candidate that leaves convolutions
and classifier to its framework has two of these faults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from conformance.faults.edit import VALUE, FrameworkEdits, by_framework, replaced, together
from conformance.faults.fault import Parameter, initial_fault
from conformance.faults.place import NETWORK, WITH_CLASSES, networks
from conformance.faults.remedies import Remedies

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
    torch="Start bn3.weight of every block as the recipe says: at ones, or at zeros as in Goyal et al. 2017.",
    flax="Start bn3.scale of every block as the recipe says: at ones, or at zeros as in Goyal et al. 2017.",
    keras="Start bn3.gamma of every block as the recipe says: at ones, or at zeros as in Goyal et al. 2017.",
)

CUT = "0.87962566103423978"
"""The deviation of standard normal numbers that are drawn again until they are within two deviations."""

CONV_HEAD = "def conv(\n"
NUMPY_TRUNCATED = """\
def truncated(rng, shape):
    drawn = rng.standard_normal(shape)
    while (far := np.abs(drawn) > 2).any():
        drawn[far] = rng.standard_normal(far.sum())
    return drawn


"""
"""A function that NumPy's model does not have; it is put before the first helper that draws."""


@dataclass(frozen=True)
class Layer:
    """How the helper of a kind of layer draws its weight and its bias.

    Attributes:
        weight: The expression that draws the weight, by framework.
        fan_in: The number of inputs of one output, in the words of the helper.
        fan_out: The number of outputs of one input.
        zeros: The expression for a bias of zeros in NumPy, and the line in PyTorch.
        before_bias: The argument after which Flax and Keras take an initializer of the bias.
    """

    weight: Mapping[str, str]
    fan_in: str
    fan_out: str
    zeros: Mapping[str, str]
    before_bias: str

    def drawn(self, **expressions: str) -> FrameworkEdits:
        """Draw the weight by other expressions."""
        edits = {framework: [(self.weight[framework], text)] for framework, text in expressions.items()}
        if "truncated(" in expressions["numpy"]:
            edits["numpy"].append((CONV_HEAD, NUMPY_TRUNCATED + CONV_HEAD))
        return by_framework(**edits)

    def scaled(self, scale: float, mode: str, distribution: str, torch: str = "") -> FrameworkEdits:
        """Draw the weight with a variance of scale / fan, which Flax and Keras call variance scaling.

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

    def normal(self, deviation: str) -> FrameworkEdits:
        """Draw the weight from a normal distribution with a deviation."""
        return self.drawn(
            numpy=f"rng.standard_normal(shape) * {deviation}",
            torch=f"nn.init.normal_(layer.weight, std={deviation}, generator=rng)",
            flax=f"nnx.initializers.normal({deviation})",
            keras=f"keras.initializers.RandomNormal(stddev={deviation}, seed=seeds)",
        )

    def uniform_bias(self) -> FrameworkEdits:
        """Draw the bias uniformly up to 1 / sqrt(fan-in), as torch.nn does."""
        bound = f"1 / ({self.fan_in}) ** 0.5"
        numpy, torch = self.zeros["numpy"], self.zeros["torch"]
        drawn = f"rng.uniform(-1, 1, {numpy.removeprefix('np.zeros')}) * {bound}"
        flax = f"lambda key, shape, dtype, *_, **__: {bound} * jax.random.uniform(key, shape, dtype, -1, 1)"
        keras = f"keras.initializers.RandomUniform(-{bound}, {bound}, seed=seeds)"
        uniform = torch.replace("zeros_(layer.bias)", f"uniform_(layer.bias, -{bound}, {bound}, generator=rng)")
        return by_framework(
            numpy=(numpy, f"({numpy} if rng is BLANK else {drawn})"),
            torch=(torch, uniform),
            flax=(self.before_bias, f"{self.before_bias}        bias_init={flax},\n"),
            keras=(self.before_bias, f"{self.before_bias}        bias_initializer={keras},\n"),
        )


def torch_truncated(deviation: str) -> str:
    """A normal distribution in PyTorch that is cut off at two deviations."""
    return f"nn.init.trunc_normal_(layer.weight, 0.0, (d := {deviation}), -2 * d, 2 * d, generator=rng)"


CONV = Layer(
    weight={
        "numpy": "rng.standard_normal(shape) * np.sqrt(2 / (out_channels * kernel**2))",
        "torch": 'nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu", generator=rng)',
        "flax": "normal(math.sqrt(2 / (out_channels * kernel**2)))",
        "keras": 'keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal", seed=seeds)',
    },
    fan_in="in_channels * kernel**2",
    fan_out="out_channels * kernel**2",
    zeros={"numpy": "np.zeros(out_channels)", "torch": "\n        nn.init.zeros_(layer.bias)\n"},
    before_bias="        use_bias=config.conv_bias,\n",
)
LINEAR = Layer(
    weight={
        "numpy": "rng.standard_normal(shape) * 0.01",
        "torch": "nn.init.normal_(layer.weight, std=0.01, generator=rng)",
        "flax": "normal(0.01)",
        "keras": "keras.initializers.RandomNormal(stddev=0.01, seed=seeds)",
    },
    fan_in="in_features",
    fan_out="out_features",
    zeros={"numpy": "np.zeros(out_features)", "torch": "\n    nn.init.zeros_(layer.bias)\n"},
    before_bias="        out_features,\n",
)
RIGHT = f"(2 / ({CONV.fan_out})) ** 0.5"
"""The deviation of a convolution's weights that is right."""

conv_fault = partial(initial_fault, where=NETWORK, remedies=CONVOLUTIONS)
classifier_fault = partial(initial_fault, where=NETWORK & WITH_CLASSES, remedies=CLASSIFIER)

ROWS = {
    "init-torch": conv_fault(
        what="convolutions are left as torch.nn draws them: uniform up to 1 / sqrt(fan-in), biases too",
        **together(
            CONV.scaled(1 / 3, "fan_in", "uniform", "kaiming_uniform_(layer.weight, a=5**0.5"), CONV.uniform_bias()
        ),
        source="pytorch#15314",
    ),
    "init-flax": conv_fault(
        what="convolutions are left as Flax draws them: lecun_normal, truncated, variance 1 / fan-in",
        **CONV.scaled(1.0, "fan_in", "truncated_normal"),
        source="the Flax ImageNet example",
    ),
    "init-keras": conv_fault(
        what="convolutions are left as Keras draws them: glorot_uniform, variance 2 / (fan-in + fan-out)",
        **CONV.scaled(1.0, "fan_avg", "uniform", "xavier_uniform_(layer.weight"),
        source="keras.applications",
    ),
    "init-fan-in": conv_fault(
        what="convolutions are drawn normal with variance 2 / fan-in, not 2 / fan-out",
        **CONV.scaled(2.0, "fan_in", "normal", 'kaiming_normal_(layer.weight, nonlinearity="relu"'),
    ),
    "init-he-normal": conv_fault(
        what="convolutions are drawn by Keras's he_normal: truncated, variance 2 / fan-in",
        **CONV.scaled(2.0, "fan_in", "truncated_normal"),
    ),
    "init-he-uniform": conv_fault(
        what="convolutions are drawn by he_uniform: uniform, variance 2 / fan-in",
        **CONV.scaled(2.0, "fan_in", "uniform", 'kaiming_uniform_(layer.weight, nonlinearity="relu"'),
    ),
    "init-glorot-normal": conv_fault(
        what="convolutions are drawn by glorot_normal, without truncation: variance 2 / (fan-in + fan-out)",
        **CONV.scaled(1.0, "fan_avg", "normal", "xavier_normal_(layer.weight"),
    ),
    "init-gain-missing": conv_fault(
        what="convolutions are drawn without the gain of ReLU: variance 1 / fan-out, not 2 / fan-out",
        **CONV.scaled(1.0, "fan_out", "normal", 'kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="linear"'),
    ),
    "init-truncated": conv_fault(
        what="convolutions are drawn from a normal distribution cut off at two deviations; their variance is right",
        **CONV.scaled(2.0, "fan_out", "truncated_normal"),
    ),
    "init-truncated-narrower": conv_fault(
        what="convolutions are drawn from a normal distribution cut off at two deviations: 0.77 of the right variance",
        **CONV.drawn(
            numpy=f"truncated(rng, shape) * {RIGHT}",
            torch=torch_truncated(RIGHT),
            flax=f"nnx.initializers.truncated_normal({RIGHT})",
            keras=f"keras.initializers.TruncatedNormal(stddev={RIGHT}, seed=seeds)",
        ),
    ),
    "init-uniform": conv_fault(
        what="convolutions are drawn from a uniform distribution; their variance is right",
        **CONV.scaled(2.0, "fan_out", "uniform", 'kaiming_uniform_(layer.weight, mode="fan_out", nonlinearity="relu"'),
    ),
    "init-fixed": conv_fault(
        what="convolutions are drawn normal with the same deviation everywhere, whatever their fans",
        **CONV.normal(VALUE),
        unknown=Parameter("deviation", injected=0.02, starts=(0.02,)),
    ),
    "init-scaled": conv_fault(
        what="convolutions are multiplied by some factor after they are drawn",
        **CONV.normal(f"{VALUE} * {RIGHT}"),
        unknown=Parameter("factor", injected=0.5, starts=(0.8,)),
    ),
    "init-classifier-torch": classifier_fault(
        what="the classifier is left as torch.nn draws it: uniform up to 1 / sqrt(fan-in), the bias too",
        **together(
            LINEAR.scaled(1 / 3, "fan_in", "uniform", "kaiming_uniform_(layer.weight, a=5**0.5"), LINEAR.uniform_bias()
        ),
        source="torchvision",
    ),
    "init-classifier-flax": classifier_fault(
        what="the classifier is left as Flax draws it: lecun_normal, truncated, variance 1 / fan-in",
        **LINEAR.scaled(1.0, "fan_in", "truncated_normal"),
        source="the Flax ImageNet example",
    ),
    "init-classifier-keras": classifier_fault(
        what="the classifier is left as Keras draws it: glorot_uniform, variance 2 / (fan-in + fan-out)",
        **LINEAR.scaled(1.0, "fan_avg", "uniform", "xavier_uniform_(layer.weight"),
        source="keras.applications",
    ),
    "init-classifier-other": classifier_fault(
        what="the classifier is drawn normal with a deviation other than 0.01",
        **LINEAR.normal(VALUE),
        unknown=Parameter("deviation", injected=0.02, starts=(0.02,)),
    ),
    "init-last-scale-zero": initial_fault(
        what="the scale of the last norm of each block starts at zero, not at one",
        where=NETWORK & networks(zero_init_last_scale=False),
        **replaced("scale=0.0 if config.zero_init_last_scale else 1.0", "scale=0.0"),
        source="Goyal et al. 2017, section 5.1",
        remedies=LAST_SCALE,
    ),
}
