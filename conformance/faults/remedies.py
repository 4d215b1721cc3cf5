"""What to do about a fault, in each framework; and the remedies that rows of several subjects share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Remedies:
    """What to do about a fault: one sentence or two for each framework."""

    torch: str
    flax: str
    keras: str


NAMES = Remedies(
    torch="Copy by name, and load with load_state_dict(strict=True), never by the order of the state_dict.",
    flax="Copy by path in nnx.state, never by the order of its leaves.",
    keras="Copy by attribute path, never by the order of model.weights, nor by auto-generated names.",
)
FOLDED = Remedies(
    torch="Fold a norm into its convolution, or keep it, not both: a folded norm becomes nn.Identity().",
    flax="Fold a norm into its convolution, or keep it, not both: drop the folded norm from the module.",
    keras="Fold a norm into its convolution, or keep it, not both: drop the folded layer.",
)
BIAS = Remedies(
    torch="Give nn.Conv2d and nn.Linear bias=True where the checkpoint has biases, and load them.",
    flax="Give nnx.Conv and nnx.Linear use_bias=True where the checkpoint has biases, and load them.",
    keras="Give Conv2D and Dense use_bias=True where the checkpoint has biases, and load them.",
)
DTYPE = Remedies(
    torch="Keep the array in its own dtype: no .half(), .bfloat16() or quantisation on the way.",
    flax="Keep param_dtype and the checkpoint's dtype: no cast to bfloat16 or float16 on the way.",
    keras="Keep the layer's dtype policy and the checkpoint's dtype: no mixed policy while converting.",
)
STRIDE = Remedies(
    torch="Give stride to the convolution that the weights were trained with: conv2 in torchvision, conv1 in Caffe.",
    flax="Give strides to the convolution that the weights were trained with: conv2 in torchvision, conv1 in Caffe.",
    keras="Give strides to the layer that had them in training: conv1 in keras.applications, conv2 in torchvision.",
)
RELU = Remedies(
    torch="Put relu after bn1, bn2 and the addition, and nowhere else; a shared nn.ReLU is easily left out of forward.",
    flax="Put nnx.relu after bn1, bn2 and the addition, and nowhere else.",
    keras="Put ops.relu after bn1, bn2 and the addition, and nowhere else.",
)
PIXELS = Remedies(
    torch="Prepare images once, as the weights expect: RGB in 0..1, minus the mean, divided by the deviation.",
    flax="Prepare images once, not in the model too: RGB in 0..1, minus the mean, divided by the deviation.",
    keras="Prepare images once, as the weights expect: preprocess_input's mode is 'torch' for these weights.",
)
