"""Wrong pools and heads in torchvision's network."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import normalize

from tests.conformance.handwritten.wrong_model import wrong


@wrong("stem", "the max pool has a 2x2 window", ("2x2|2 x 2|window",))
def pool_of_two(net):
    net.maxpool = nn.MaxPool2d(2, 2)


@wrong("stem", "the max pool rounds its size up", "ceil|round|size|pad", rows="pool-ceil")
def pool_in_ceil_mode(net):
    net.maxpool.ceil_mode = True


@wrong("stem", "the stem's pool takes the mean", "mean|average", rows="pool-average")
def pool_of_means(net):
    net.maxpool = nn.AvgPool2d(3, 2, 1)


@wrong("stem", "the stem's pool takes the mean, without the padded zeros", "mean|average")
def pool_of_means_without_padding(net):
    net.maxpool = nn.AvgPool2d(3, 2, 1, count_include_pad=False)


@wrong("stem", "there is no max pool", "no max pool|missing|identity|stride|no pool", rows="pool-missing")
def pool_missing(net):
    """The stem for small images, with its 7x7 kernel kept."""
    net.maxpool = nn.Identity()


@wrong("stem", "the max pool pads right and bottom only", "pad|same", rows="pool-same")
def pool_of_tensorflow(net):
    net.maxpool = nn.Sequential(nn.ConstantPad2d((0, 1, 0, 1), float("-inf")), nn.MaxPool2d(3, 2))


@wrong("stem", "the max pool does not pad", "pad|valid|size", rows="pool-valid")
def pool_without_padding(net):
    net.maxpool.padding = 0


@wrong("stem", "the max pool has a 5x5 window", ("5x5|5 x 5|window",))
def pool_of_five(net):
    net.maxpool = nn.MaxPool2d(5, 2, 2)


@wrong("stem", "every second pixel is taken, without a pool", "pixel|stride|1x1|1 x 1|window|subsampl|no max")
def pool_by_slicing(net):
    class Slice(nn.Module):
        def forward(self, x):
            return x[:, :, ::2, ::2].contiguous()

    net.maxpool = Slice()


@wrong("pool", "the head takes the largest value of the map", "max|largest", rows="head-max")
def head_takes_the_maximum(net):
    net.avgpool = nn.AdaptiveMaxPool2d(1)


@wrong("pool", "the head sums the map", "sum|factor|times|scal")
def head_takes_the_sum(net):
    """LPPool of order 1 adds up."""
    net.avgpool = nn.LPPool2d(1, (2, 3))


@wrong("pool", "the head takes a generalised mean of order 3", "generali|power|order|no linear|not linear|neither")
def head_takes_a_generalised_mean(net):
    class Gem(nn.Module):
        def forward(self, x):
            return x.clamp(min=1e-6).pow(3).mean((2, 3), keepdim=True).pow(1 / 3)

    net.avgpool = Gem()


@wrong("pool", "the head averages mean and maximum", "max|no linear|not linear|neither")
def head_takes_mean_and_maximum(net):
    """timm's pool "avgmax"."""

    class AvgMax(nn.Module):
        def forward(self, x):
            return 0.5 * (x.mean((2, 3), keepdim=True) + x.amax((2, 3), keepdim=True))

    net.avgpool = AvgMax()


@wrong("pool", "the head takes a 2x2 window only", "window|2x2|2 x 2|part|corner|pixels")
def head_takes_a_corner(net):
    """AvgPool2d with the size of the feature map of another input; only its first window is read."""

    class Corner(nn.Module):
        def forward(self, x):
            return x[:, :, :2, :2].mean((2, 3), keepdim=True)

    net.avgpool = Corner()


class Ending(nn.Linear):
    """A classifier with something behind it."""

    def forward(self, x):
        return self.end(super().forward(x))


def end_with(net, function):
    net.fc.__class__, net.fc.end = Ending, function


@wrong("logits", "the network returns probabilities", "softmax|probabilit", rows="softmax-included")
def softmax_at_the_end(net):
    end_with(net, lambda x: x.softmax(1))


@wrong(
    "logits",
    "the network returns log-probabilities",
    "log.?softmax|log.?probabilit|logarithm|shift|offset.*(image|row)|no linear|not linear",
)
def log_softmax_at_the_end(net):
    end_with(net, lambda x: x.log_softmax(1))


@wrong("logits", "the network returns sigmoids", "sigmoid|no linear|not linear")
def sigmoid_at_the_end(net):
    end_with(net, torch.sigmoid)


@wrong(
    "logits",
    "logits are divided by a temperature of 1.5",
    ("scal|multipl|factor|temperature", r"1\.5|0?\.66"),
    rows="logits-scaled",
)
def temperature(net):
    end_with(net, lambda x: x / 1.5)


@wrong("logits", "the classifier's bias is missing", "bias", rows="fc-bias-dropped")
def classifier_without_bias(net):
    nn.init.zeros_(net.fc.bias)


@wrong(
    "logits",
    "a background class comes first: logits are shifted by one",
    "shift|roll|background|permut|order",
    rows="classes-1001",
)
def background_class(net):
    end_with(net, lambda x: torch.cat([x[:, -1:], x[:, :-1]], 1))


@wrong(
    "logits", "the background class is missing: logits are shifted by minus one", "shift|roll|background|permut|order"
)
def background_class_cut_off(net):
    """Row 0 dropped from a classifier that has no background class; the last row is padded."""
    net.fc.weight.data = torch.cat([net.fc.weight.data[1:], torch.zeros_like(net.fc.weight.data[:1])])
    net.fc.bias.data = torch.cat([net.fc.bias.data[1:], torch.zeros_like(net.fc.bias.data[:1])])


@wrong("logits", "classes are in another order", "permut|order")
def classes_sorted_as_text(net):
    """Folder names sorted as text: 1, 10, 2, ..."""
    order = sorted(range(1, 11), key=str)
    index = torch.tensor([number - 1 for number in order])
    net.fc.weight.data, net.fc.bias.data = net.fc.weight.data[index], net.fc.bias.data[index]


@wrong("logits", "the classifier's matrix was reshaped, not transposed", "reshap|permut|order", rows="fc-reshaped")
def classifier_reshaped(net):
    net.fc.weight.data = net.fc.weight.data.t().reshape(net.fc.weight.shape).contiguous()


@wrong("logits", "the classifier is as initialised", "initial|not loaded|no array|none of|unrelated|random")
def classifier_not_loaded(net):
    """A head made new for fine-tuning, and never trained."""
    torch.manual_seed(1)
    net.fc.reset_parameters()


@wrong(
    "logits", "the features have length 1 before the classifier", "normali|length|unit|no linear|not linear|scal.*image"
)
def features_normalised(net):
    class Normalised(nn.Linear):
        def forward(self, x):
            return super().forward(normalize(x))

    net.fc.__class__ = Normalised


@wrong(
    "logits",
    "the classifier's weights have length 1: a cosine classifier",
    "normali|length|unit|scal|cosine|factor|each (class|output)",
)
def cosine_classifier(net):
    net.fc.weight.data = normalize(net.fc.weight.data)


@wrong(
    "logits", "there is dropout before the classifier in training", "dropout|random|two runs|dropped", modes=("train",)
)
def dropout_before_the_classifier(net):
    class Dropped(nn.Linear):
        def forward(self, x):
            return super().forward(nn.functional.dropout(x, 0.5, self.training))

    net.fc.__class__ = Dropped


@wrong("logits", "there is dropout before the classifier in inference, too", "dropout|random|two runs|dropped")
def dropout_left_on(net):
    """nn.functional.dropout without its argument `training`, whose default is True."""

    class LeftOn(nn.Linear):
        def forward(self, x):
            return super().forward(nn.functional.dropout(x, 0.5))

    net.fc.__class__ = LeftOn
