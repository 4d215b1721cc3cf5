"""Lines of the model files that faults of several subjects replace.

A line is one text if it is the same in all four files, and a mapping by framework if each has its own.
"""

from __future__ import annotations

BN1 = 'y = relu(tap("bn1", self.bn1(tap("conv1", self.conv1(x)))))'
BN2 = 'y = relu(tap("bn2", self.bn2(tap("conv2", self.conv2(y)))))'
SHORTCUT = 'x = tap("downsample_bn", self.downsample_bn(tap("downsample_conv", self.downsample_conv(x))))'
SUM = "return relu(y + x)"
STEM = 'x = relu(tap("bn1", self.bn1(tap("conv1", self.conv1(x)))))'
STEM_POOL = 'x = tap("stem", max_pool(x, self.config))'
HEAD_POOL = 'x = tap("pool", average_pool(x, self.config))'
LOGITS = 'return tap("logits", self.fc(x))'

MAX_POOL = {
    "numpy": "return windows(pad(x, 3, 2, config.same_padding, -np.inf), 3, 2).max((4, 5))",
    "torch": "return max_pool2d(x, 3, 2, padding=1)",
    "flax": 'return nnx.max_pool(x, (3, 3), (2, 2), "SAME" if config.same_padding else ((1, 1), (1, 1)))',
    "keras": 'return ops.max_pool(pad(x, 3, -float("inf")), 3, 2, "valid", "channels_last")',
}
"""The last line of `max_pool`."""

NORM_CALL = {
    "numpy": "mean, variance = self.running_mean, self.running_var",
    "flax": "y = super().__call__(x)",
    "keras": "y = super().call(x, training=training, mask=mask)",
}
"""The line of `BatchNorm` that normalises, or in NumPy chooses by what."""


def torch_norm(name: str, body: str) -> list[tuple[str, str]]:
    """A subclass of PyTorch's batch norm with another `forward`, and its use in `norm`.

    Args:
        name: Name of the subclass.
        body: The lines of `forward(self, x)`, without indentation.
    """
    forward = "".join(f"        {line}\n" for line in body.splitlines())
    head = "def norm(channels"
    text = f"class {name}(BatchNorm):\n    def forward(self, x):\n{forward}\n\n"
    return [(head, text + head), ("layer = BatchNorm(", f"layer = {name}(")]


def without_relu(line: str) -> str:
    """A line of the forward pass without its ReLU.

    Example:
        >>> without_relu("return relu(y + x)")
        'return (y + x)'
    """
    return line.replace("relu(", "(", 1)
