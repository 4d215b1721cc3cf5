"""Wrong norms in torchvision's network: eps, statistics, arrays of another layer, another kind of norm."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.ops.misc import FrozenBatchNorm2d

from tests.conformance.handwritten.wrong_model import wrong

INFERENCE, TRAIN = ("inference",), ("train",)


def norms(module):
    return [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]


def column(vector):
    return vector[:, None, None]


class ByHand(nn.BatchNorm2d):
    """A batch norm written out; subclasses override a step of it."""

    def variance(self, x, mean):
        return ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)

    def normalise(self, x, mean, variance):
        return (x - mean) / (variance + self.eps).sqrt()

    def kept_variance(self, variance, count):
        return variance * count / (count - 1)

    def forward(self, x):
        if self.training:
            mean = x.mean((0, 2, 3), keepdim=True)
            variance, count = self.variance(x, mean), x.numel() // x.shape[1]
            with torch.no_grad():
                self.running_mean.lerp_(mean.flatten(), self.momentum)
                self.running_var.lerp_(self.kept_variance(variance.flatten(), count), self.momentum)
        else:
            mean, variance = column(self.running_mean), column(self.running_var)
        return self.normalise(x, mean, variance) * column(self.weight) + column(self.bias)


@wrong("bn1", "eps is 1e-3 in every norm", ("eps", r"1e-0?3|0?\.001"), rows="eps-keras")
def eps_of_keras(net):
    for norm in norms(net):
        norm.eps = 1e-3


@wrong("stage2.0.bn1", "eps is 1e-3 in the norms of stage 2", ("eps", r"1e-0?3|0?\.001"), rows="eps-keras")
def eps_of_one_stage(net):
    for norm in norms(net.layer2):
        norm.eps = 1e-3


@wrong("stage3.1.bn2", "eps is 2e-4", ("eps", r"2e-0?4|0?\.0002"), rows="eps-other")
def eps_of_one_norm(net):
    net.layer3[1].bn2.eps = 2e-4


@wrong("bn1", "eps is 1.001e-5 in every norm", ("eps", r"1\.001e-0?5"), rows="eps-1.001")
def eps_of_keras_applications(net):
    for norm in norms(net):
        norm.eps = 1.001e-5


@wrong(
    "stage2.1.bn1",
    "eps is added to the deviation, not to the variance",
    ("eps", "outside|deviation|root"),
    rows="eps-outside-root",
)
def eps_outside(net):
    class Outside(ByHand):
        def normalise(self, x, mean, variance):
            return (x - mean) / (variance.sqrt() + self.eps)

    net.layer2[1].bn1.__class__ = Outside


@wrong("stage4.0.bn2", "there is no eps", ("eps", r"\b0\b|zero|no eps"), rows="eps-zero")
def eps_forgotten(net):
    class WithoutEps(ByHand):
        def normalise(self, x, mean, variance):
            return (x - mean) / variance.sqrt()

    net.layer4[0].bn2.__class__ = WithoutEps


@wrong("stage3.0.bn1", "running mean and offset are exchanged", "mean|offset", rows="mean-offset-swap")
def mean_and_offset_exchanged(net):
    norm = net.layer3[0].bn1
    norm.running_mean.data, norm.bias.data = norm.bias.data.clone(), norm.running_mean.clone()


@wrong("stage1.1.bn3", "scale and running variance are exchanged", "scale|variance", rows="scale-var-swap")
def scale_and_variance_exchanged(net):
    norm = net.layer1[1].bn3
    norm.running_var.data, norm.weight.data = norm.weight.data.clone(), norm.running_var.clone()


@wrong("stage2.1.bn2", "scale and offset are exchanged", "scale|offset", rows="scale-offset-swap")
def scale_and_offset_exchanged(net):
    norm = net.layer2[1].bn2
    norm.bias.data, norm.weight.data = norm.weight.data.clone(), norm.bias.data.clone()


@wrong(
    "stage3.1.bn1", "the norm is as initialised: scale 1, offset 0, mean 0, variance 1", "initial|not loaded|untouched"
)
def norm_untouched(net):
    net.layer3[1].bn1.reset_parameters()


@wrong("stage3.2.bn2", "running mean and variance are 0 and 1", "mean|variance", rows="norm-not-loaded")
def statistics_not_loaded(net):
    net.layer3[2].bn2.reset_running_stats()


@wrong("bn1", "the scale is 1", "scale", rows="scale-not-loaded")
def stem_without_scale(net):
    net.bn1.weight.data.fill_(1)


@wrong(
    "stage4.1.bn1",
    "scale and offset are left at 1 and 0",
    ("scale", "offset"),
    rows="scale-not-loaded offset-not-loaded",
)
def norm_without_affine(net):
    """affine=False."""
    nn.init.ones_(net.layer4[1].bn1.weight)
    nn.init.zeros_(net.layer4[1].bn1.bias)


@wrong(
    "stage2.0.bn3",
    "a standard deviation was loaded as the variance",
    "deviation|variance|root",
    rows="var-is-deviation",
)
def deviation_as_variance(net):
    norm = net.layer2[0].bn3
    norm.running_var.sqrt_()


@wrong("stage2.0.bn2", "the reciprocal of the variance was loaded as the variance", "reciprocal|inverse|1 ?/|variance")
def reciprocal_as_variance(net):
    norm = net.layer2[0].bn2
    norm.running_var.reciprocal_()


@wrong("stage1.0.bn2", "the running statistics are those of bn1", r"stage1\.0\.bn1|bn1")
def statistics_of_another_norm(net):
    block = net.layer1[0]
    block.bn2.running_mean.copy_(block.bn1.running_mean)
    block.bn2.running_var.copy_(block.bn1.running_var)


@wrong("stage3.1.bn2", "the norm has the arrays of stage3.2.bn2", r"stage3\.2\.bn2")
def norm_of_another_block(net):
    net.layer3[1].bn2.load_state_dict(net.layer3[2].bn2.state_dict())


@wrong("stage2.0.bn1", "bn1 and bn2 are exchanged", "bn2|exchang|place", rows="norm-order-inner")
def norms_of_a_block_exchanged(net):
    block = net.layer2[0]
    block.bn1, block.bn2 = block.bn2, block.bn1


@wrong(
    "stage3.0.bn3",
    "the norms of conv3 and of the shortcut are exchanged",
    "downsample_bn|exchang|place",
    rows="norm-order",
)
def norm_of_the_shortcut_exchanged(net):
    block = net.layer3[0]
    block.bn3, block.downsample[1] = block.downsample[1], block.bn3


@wrong(
    "stage3.1.bn2",
    "the norms of stage3.1.bn2 and stage3.2.bn2 are exchanged",
    r"stage3\.2|exchang|place",
    rows="norm-order-following",
)
def norms_of_neighbours_exchanged(net):
    net.layer3[1].bn2, net.layer3[2].bn2 = net.layer3[2].bn2, net.layer3[1].bn2


@wrong("stage1.1.bn2", "the scale is one larger: 1 + gamma", ("scale", r"1 \+|one larger|plus one|shift|differ"))
def scale_around_zero(net):
    """The convention of a library that stores gamma - 1."""
    net.layer1[1].bn2.weight.data += 1


@wrong("stage2.1.bn3", "the norm is applied twice", "twice|scale")
def norm_applied_twice(net):
    class Twice(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(super().forward(x))

    net.layer2[1].bn3.__class__ = Twice


@wrong("stage1.0.bn1", "the norm is missing", "missing|identity|nothing|passes")
def norm_missing(net):
    class Nothing(nn.BatchNorm2d):
        def forward(self, x):
            return x.clone()

    net.layer1[0].bn1.__class__ = Nothing


@wrong(
    "stage2.0.downsample_bn", "the shortcut has no norm", "missing|identity|nothing|passes", rows="shortcut-bn-missing"
)
def shortcut_without_norm(net):
    net.layer2[0].downsample[1] = nn.Identity()


@wrong("stage2.1.bn2", "a group norm stands where a batch norm should", "group|per image|each image")
def group_norm(net):
    old = net.layer2[1].bn2
    new = nn.GroupNorm(4, old.num_features).to(old.weight)
    new.weight.data, new.bias.data = old.weight.data, old.bias.data
    net.layer2[1].bn2 = new


@wrong("stage3.0.bn1", "an instance norm stands where a batch norm should", "instance|per image|each image")
def instance_norm(net):
    old = net.layer3[0].bn1
    new = nn.InstanceNorm2d(old.num_features, affine=True).to(old.weight)
    new.load_state_dict(old.state_dict(), strict=False)
    net.layer3[0].bn1 = new


@wrong("stage3.0.bn2", "the norm uses the batch's statistics in inference", "batch", rows="bn-batch-stats")
def norm_without_running_statistics(net):
    """track_running_stats=False: the arrays are missing, too."""
    old = net.layer3[0].bn2
    new = nn.BatchNorm2d(old.num_features, track_running_stats=False).to(old.weight)
    new.weight.data, new.bias.data = old.weight.data, old.bias.data
    net.layer3[0].bn2 = new


@wrong("bn1", "the norms use the batch's statistics in inference", "batch", rows="bn-batch-stats", modes=INFERENCE)
def model_left_in_train_mode(net):
    """eval() is never called on the norms."""
    for norm in norms(net):
        norm.eval = norm.train
        norm.train = lambda mode=True, norm=norm: nn.Module.train(norm, True)


@wrong(
    "bn1", "the norms use the running statistics in training", "running|frozen|inference", rows="bn-frozen", modes=TRAIN
)
def norms_frozen(net):
    """torchvision's FrozenBatchNorm2d, as in its detectors."""

    def freeze(module):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                frozen = FrozenBatchNorm2d(child.num_features, child.eps).to(child.weight)
                frozen.load_state_dict(child.state_dict())
                setattr(module, name, frozen)
            else:
                freeze(child)

    freeze(net)


@wrong(
    "stage1.0.bn1",
    "the norms of stage 1 use the running statistics in training",
    "running|frozen|inference",
    rows="bn-frozen",
    modes=TRAIN,
)
def norms_of_stage_1_frozen(net):
    """train() overridden, so that the first stage stays in eval mode."""
    net.layer1.train = lambda mode=True: nn.Module.train(net.layer1, False)


@wrong(
    "stage2.0.bn2", "the batch is normalised by the unbiased variance in training", "unbiased|n - 1|n-1", modes=TRAIN
)
def normalised_by_unbiased_variance(net):
    """x.var((0, 2, 3)), whose default is unbiased."""

    class Unbiased(ByHand):
        def variance(self, x, mean):
            return x.var((0, 2, 3), keepdim=True)

        def kept_variance(self, variance, count):
            return variance

    net.layer2[0].bn2.__class__ = Unbiased


@wrong(
    "bn1.running_var",
    "the running variance takes the biased variance, in every norm",
    "biased|n / \\(n - 1\\)",
    rows="var-biased",
    modes=TRAIN,
)
def running_variance_biased(net):
    class Biased(ByHand):
        def kept_variance(self, variance, count):
            return variance

    for norm in norms(net):
        norm.__class__ = Biased


@wrong(
    "bn1.running_mean",
    "running statistics keep a share of 0.99, in every norm",
    r"0?\.99|momentum|decay|share",
    rows="momentum-099",
    modes=TRAIN,
)
def momentum_of_keras(net):
    for norm in norms(net):
        norm.momentum = 0.01


@wrong(
    "bn1.running_mean",
    "running statistics keep a share of 0.1: Flax's 0.9 is PyTorch's 0.1",
    r"0?\.1|momentum|decay|share",
    rows="momentum-inverted",
    modes=TRAIN,
)
def momentum_copied_from_flax(net):
    for norm in norms(net):
        norm.momentum = 0.9


@wrong(
    "stage2.0.bn1.running_mean",
    "running statistics are a plain average over all steps",
    r"average|share|decay|momentum|keep",
    rows="momentum-other",
    modes=TRAIN,
)
def momentum_none(net):
    """momentum=None; a fresh network has seen no step, so that nothing of the old statistics is kept."""
    net.layer2[0].bn1.momentum = None


@wrong(
    "stage2.1.bn1.running_mean",
    "the running statistics are not updated",
    "not updated|share|decay|momentum|keep|frozen|1",
    rows="momentum-other",
    modes=TRAIN,
)
def statistics_not_updated(net):
    class NotUpdated(nn.BatchNorm2d):
        def forward(self, x):
            if not self.training:
                return super().forward(x)
            return nn.functional.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)

    net.layer2[1].bn1.__class__ = NotUpdated


@wrong("stage1.0.bn3.running_var", "the deviation enters the running variance", "deviation|root|variance", modes=TRAIN)
def deviation_kept_as_variance(net):
    class Deviation(ByHand):
        def kept_variance(self, variance, count):
            return super().kept_variance(variance, count).sqrt()

    net.layer1[0].bn3.__class__ = Deviation


@wrong(
    "stage4.1.bn3",
    "the running mean was left at 0",
    "mean|not subtracted|cent",
    rows="mean-not-loaded",
)
def running_mean_zeroed(net):
    net.layer4[1].bn3.running_mean.zero_()
