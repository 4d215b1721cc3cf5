"""Wrong gradients of torchvision's network: parts that are frozen or detached, wrong losses, gradients scaled."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot, relu

from tests.conformance.handwritten.blocks import Summing
from tests.conformance.handwritten.norms import ByHand, norms
from tests.conformance.handwritten.torchvision_networks import Script
from tests.conformance.handwritten.wrong_model import wrong


def wrong_gradient(layer, fact, says, *, rows="", modes=("inference", "train")):
    return wrong(layer, fact, says, rows=rows, modes=modes, task="gradients")


@wrong_gradient(
    "gradient.stage2.0.conv1.weight",
    "no gradient reaches the kernel",
    "no gradient|zero|frozen",
    rows="kernel-gradient-lost",
)
def kernel_frozen(net):
    net.layer2[0].conv1.weight.requires_grad = False


@wrong_gradient(
    "gradient.stage1.1.bn3.bias",
    "no gradient reaches the norm's offset",
    "no gradient|zero|frozen",
    rows="offset-gradient-lost",
)
def offset_frozen(net):
    net.layer1[1].bn3.bias.requires_grad = False


@wrong_gradient(
    "gradient.stage4.0.downsample_bn.bias",
    "no gradient reaches scales and offsets of norms, everywhere",
    ("no gradient|zero|frozen",),
    rows="scale-gradient-lost offset-gradient-lost",
)
def norms_not_trained(net):
    for norm in norms(net):
        norm.weight.requires_grad = norm.bias.requires_grad = False


@wrong_gradient(
    "gradient.stage4.0.downsample_bn.weight",
    "no gradient reaches the scales of norms, everywhere",
    ("no gradient|zero|frozen",),
    rows="scale-gradient-lost",
)
def scales_not_trained(net):
    for norm in norms(net):
        norm.weight.requires_grad = False


@wrong_gradient(
    "gradient.stage1.1.bn3.bias",
    "no gradient reaches the parameters of stem and stage 1; the images' is right",
    ("no gradient|zero|frozen", "stage1|stem"),
    rows="kernel-gradient-lost scale-gradient-lost offset-gradient-lost",
)
def first_stages_frozen(net):
    """The parameters of the first stages are frozen, as detectors do; gradients still pass through."""
    for part in (net.conv1, net.bn1, net.layer1):
        part.requires_grad_(False)


@wrong_gradient(
    "gradient.fc.bias",
    "no gradient reaches the classifier's bias",
    "no gradient|zero|frozen",
    rows="classifier-bias-gradient-lost",
)
def classifier_bias_frozen(net):
    net.fc.bias.requires_grad = False


@wrong_gradient(
    "gradient.fc.bias",
    "no gradient reaches the classifier",
    ("no gradient|zero|frozen",),
    rows="classifier-gradient-lost classifier-bias-gradient-lost",
)
def classifier_frozen(net):
    net.fc.requires_grad_(False)


@wrong_gradient(
    "gradient.stage4.0.downsample_bn.bias",
    "no gradient reaches anything but the classifier",
    "no gradient|zero|frozen",
    rows="features-frozen",
)
def features_without_gradients(net):
    """A linear probe: the features are detached."""
    net.avgpool.register_forward_hook(lambda module, inputs, output: output.detach())


@wrong_gradient(
    "gradient.stage1.1.bn3.bias",
    "no gradient reaches the layers before stage 2",
    "no gradient|zero|frozen",
    rows="layers-before-frozen",
)
def stage_1_without_gradients(net):
    """torch.no_grad() around stem and stage 1."""
    net.layer1.register_forward_hook(lambda module, inputs, output: output.detach())


@wrong_gradient(
    "gradient.stage3.0.bn3.bias",
    "no gradient passes through the branch",
    ("branch|no gradient|zero",),
    rows="branch-detached",
)
def branch_detached(net):
    class Detached(Summing):
        def add(self, branch, shortcut):
            return branch.detach() + shortcut

    net.layer3[0].__class__ = Detached


@wrong_gradient(
    "gradient.stage1.0.downsample_bn.bias",
    "no gradient passes through the shortcut of stage1.1",
    ("shortcut",),
    rows="shortcut-detached",
)
def shortcut_detached(net):
    class Detached(Summing):
        def add(self, branch, shortcut):
            return branch + shortcut.detach()

    net.layer1[1].__class__ = Detached


@wrong_gradient(
    "gradient.stage2.0.conv2.weight",
    "batch statistics are constants to the gradient",
    ("statistic|mean|variance",),
    rows="statistics-detached",
    modes=("train",),
)
def statistics_without_gradients(net):
    """Statistics computed under torch.no_grad()."""

    class Detached(ByHand):
        def normalise(self, x, mean, variance):
            return super().normalise(x, mean.detach(), variance.detach())

    net.layer2[0].bn2.__class__ = Detached


@wrong_gradient(
    "gradient.stage3.0.conv3.weight",
    "the batch's variance is a constant to the gradient",
    ("variance",),
    rows="variance-detached",
    modes=("train",),
)
def variance_without_gradients(net):
    class Detached(ByHand):
        def normalise(self, x, mean, variance):
            return super().normalise(x, mean, variance.detach())

    net.layer3[0].bn3.__class__ = Detached


@wrong_gradient(
    "gradient.stage3.0.conv2.weight", "the kernel's gradient is multiplied by 2", ("factor|multipl|scal|twice", "2")
)
def kernel_gradient_doubled(net):
    """A hook that was registered to equalise learning rates."""
    net.layer3[0].conv2.weight.register_hook(lambda gradient: 2 * gradient)


@wrong_gradient(
    "gradient.stage4.0.bn1.weight",
    "the scale's gradient has the other sign",
    ("factor|multipl|scal|sign|negat", "-1|sign|negat"),
)
def scale_gradient_negated(net):
    net.layer4[0].bn1.weight.register_hook(lambda gradient: -gradient)


@wrong_gradient(
    "gradient.stage2.0.bn3.bias", "gradients behind stage 3 are multiplied by 0.1", ("factor|multipl|scal", r"0?\.1|10")
)
def gradient_scaled_midway(net):
    """Gradients into the earlier stages scaled down, as for a pretrained backbone."""

    class Scale(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return 0.1 * gradient

    net.layer2.register_forward_hook(lambda module, inputs, output: Scale.apply(output))


@wrong_gradient(
    "gradient.stage1.0.conv2.weight", "ReLU after bn2 passes the gradient straight through", ("relu|straight|gradient",)
)
def relu_straight_through(net):
    class Straight(Summing):
        def branch(self, x):
            out = relu(self.bn1(self.conv1(x)))
            out = self.bn2(self.conv2(out))
            out = out + (relu(out) - out).detach()
            return self.bn3(self.conv3(out))

    net.layer1[0].__class__ = Straight


@wrong_gradient("loss", "labels are off by one", "label")
class LabelsOffByOne(Script):
    """Labels counted from 1."""

    def loss(self, logits, labels):
        return super().loss(logits, (labels + 1) % logits.shape[1])


@wrong_gradient("loss", "the loss is summed over the batch", "sum|batch|factor|2", rows="loss-sum")
class LossSummed(Script):
    def loss(self, logits, labels):
        return cross_entropy(logits, labels, reduction="sum", label_smoothing=self.recipe.label_smoothing)


@wrong_gradient("loss", "there is no label smoothing", "smoothing", rows="label-smoothing-missing")
class WithoutSmoothing(Script):
    def loss(self, logits, labels):
        return cross_entropy(logits, labels)


@wrong_gradient("loss", "label smoothing has a share of 0.2", ("smoothing", r"0?\.2"), rows="label-smoothing-other")
class SmoothingOfOneFifth(Script):
    def loss(self, logits, labels):
        return cross_entropy(logits, labels, label_smoothing=0.2)


@wrong_gradient("loss", "a softmax comes before a loss that applies one itself", "softmax", rows="softmax-twice")
class SoftmaxTwice(Script):
    def loss(self, logits, labels):
        return super().loss(logits.softmax(1), labels)


@wrong_gradient("loss", "the loss is that of sigmoids, one class against the rest", "sigmoid|binary|loss")
class BinaryLoss(Script):
    """The BCE of a later recipe."""

    def loss(self, logits, labels):
        targets = one_hot(labels, logits.shape[1]).to(logits)
        return nn.functional.binary_cross_entropy_with_logits(logits, targets)


@wrong_gradient("loss", "classes have weights", "weight|class|label")
class ClassesWeighted(Script):
    def loss(self, logits, labels):
        weight = torch.linspace(0.5, 1.5, logits.shape[1], dtype=logits.dtype)
        return cross_entropy(logits, labels, weight, label_smoothing=self.recipe.label_smoothing)


@wrong_gradient(
    "gradient.fc.bias",
    "gradients are multiplied by 128: a loss scale that is not undone",
    ("128|scal|factor",),
    rows="gradient-scaled",
)
class LossScaleKept(Script):
    """The value that is reported is right."""

    def loss(self, logits, labels):
        loss = super().loss(logits, labels)
        return loss + 127 * (loss - loss.detach())
