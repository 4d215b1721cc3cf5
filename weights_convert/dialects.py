"""The dialects: the names that each library gives to the layers of the network.

A dialect gives a pattern for every layer, and the framework whose column of the conversion table its arrays follow.
`naming.PLACEHOLDERS` explains the placeholders of the patterns. To support another library, add a value here.
"""

from __future__ import annotations

from weights_convert.naming import CANONICAL_LAYERS, Dialect

AS_CANONICAL = {pattern: pattern for pattern in CANONICAL_LAYERS}
BATCH_COUNTER = {r".*\.num_batches_tracked": "PyTorch's count of training batches, which no other framework has"}
KERAS_STATE = {
    r"optimizer\..*": "the state of the optimizer",
    r".*seed_generator.*": "the state of a random number generator",
}
OPTIMIZER_STATE = {r"optimizer\..*": "the state of the optimizer (load_training reads it)"}
TRAINING_STATE = {
    r"opt_state\..*": "the state of the optimizer",
    r"(step|dynamic_scale\..*)": "the state of the training loop: step and loss scale",
}
SLIM_STATE = {
    r".*\.(Momentum|RMSProp(_\d+)?|Adam(_\d+)?|Adagrad|Ftrl(_\d+)?)": "the state of the optimizer",
    r".*\.ExponentialMovingAverage": "averaged weights, beside the last ones",
    r"mean_rgb": "the mean of the images, which belongs to the preprocessing",
}
TRANSFORMERS = {
    "conv1": "{root}embedder.embedder.convolution",
    "bn1": "{root}embedder.embedder.normalization",
    "stage{stage}.{block}.conv{k}": "{root}encoder.stages.{stage0}.layers.{block}.layer.{k0}.convolution",
    "stage{stage}.{block}.bn{k}": "{root}encoder.stages.{stage0}.layers.{block}.layer.{k0}.normalization",
    "stage{stage}.{block}.downsample_conv": "{root}encoder.stages.{stage0}.layers.{block}.shortcut.convolution",
    "stage{stage}.{block}.downsample_bn": "{root}encoder.stages.{stage0}.layers.{block}.shortcut.normalization",
    "fc": "classifier.1",
}
"""The patterns of transformers' ResNets.

Sources: `modeling_resnet.py`, and `modeling_flax_resnet.py` and `modeling_tf_resnet.py` of version 4.
"""

DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        Dialect(
            "canonical",
            "torch",
            AS_CANONICAL,
            "the exchange form of this project, and the state_dict of impls.torch",
            BATCH_COUNTER | OPTIMIZER_STATE,
        ),
        Dialect("flax", "flax", AS_CANONICAL, "impls.flax: attribute paths, joined by dots"),
        Dialect("keras", "keras", AS_CANONICAL, "impls.keras: attribute paths, joined by dots", KERAS_STATE),
        Dialect(
            "torchvision",
            "torch",
            {
                "conv1": "conv1",
                "bn1": "bn1",
                "stage{stage}.{block}.conv{k}": "layer{stage}.{block}.conv{k}",
                "stage{stage}.{block}.bn{k}": "layer{stage}.{block}.bn{k}",
                "stage{stage}.{block}.downsample_conv": "layer{stage}.{block}.downsample.0",
                "stage{stage}.{block}.downsample_bn": "layer{stage}.{block}.downsample.1",
                "fc": "fc",
            },
            "torchvision.models.resnet50, and timm's resnet50",
            BATCH_COUNTER,
            "v1.5",
        ),
        Dialect(
            "torchvision-children",
            "torch",
            {
                "conv1": "0",
                "bn1": "1",
                "stage{stage}.{block}.conv{k}": "{stage3}.{block}.conv{k}",
                "stage{stage}.{block}.bn{k}": "{stage3}.{block}.bn{k}",
                "stage{stage}.{block}.downsample_conv": "{stage3}.{block}.downsample.0",
                "stage{stage}.{block}.downsample_bn": "{stage3}.{block}.downsample.1",
                "fc": "9",
            },
            "nn.Sequential(*resnet50().children()) of torchvision, as fastai builds it: layers by position",
            BATCH_COUNTER,
            "v1.5",
        ),
        Dialect(
            "detectron2",
            "torch",
            {
                "conv1": "stem.conv1",
                "bn1": "stem.conv1.norm",
                "stage{stage}.{block}.conv{k}": "res{stage1}.{block}.conv{k}",
                "stage{stage}.{block}.bn{k}": "res{stage1}.{block}.conv{k}.norm",
                "stage{stage}.{block}.downsample_conv": "res{stage1}.{block}.shortcut",
                "stage{stage}.{block}.downsample_bn": "res{stage1}.{block}.shortcut.norm",
                "fc": "linear",
            },
            "the ResNet of detectron2 (modeling/backbone/resnet.py)",
            BATCH_COUNTER,
            "v1",
        ),
        Dialect(
            "transformers",
            "torch",
            TRANSFORMERS,
            "ResNetForImageClassification and ResNetModel of transformers",
            BATCH_COUNTER,
            "v1.5",
            root=("resnet.", ""),
        ),
        Dialect(
            "transformers-flax",
            "flax",
            TRANSFORMERS,
            "FlaxResNetForImageClassification and FlaxResNetModel of transformers 4",
            published_variant="v1.5",
            collections=("params.", "batch_stats."),
            root=("resnet.", ""),
        ),
        Dialect(
            "transformers-tf",
            "keras",
            TRANSFORMERS | {"fc": "tf_res_net_for_image_classification.classifier.1"},
            "TFResNetForImageClassification and TFResNetModel of transformers 4",
            published_variant="v1.5",
            root=("tf_res_net_for_image_classification.resnet.", "tf_res_net_model.resnet."),
        ),
        Dialect(
            "keras.applications",
            "keras",
            {
                "conv1": "conv1_conv",
                "bn1": "conv1_bn",
                "stage{stage}.{block}.conv{k}": "conv{stage1}_block{block1}_{k}_conv",
                "stage{stage}.{block}.bn{k}": "conv{stage1}_block{block1}_{k}_bn",
                "stage{stage}.{block}.downsample_conv": "conv{stage1}_block{block1}_0_conv",
                "stage{stage}.{block}.downsample_bn": "conv{stage1}_block{block1}_0_bn",
                "fc": "predictions",
            },
            "keras.applications.ResNet50: layer name and variable name, joined by a dot",
            KERAS_STATE,
            published_variant="keras",
        ),
        Dialect(
            "keras-hub",
            "keras",
            {
                "conv1": "conv1_conv",
                "bn1": "conv1_bn",
                "stage{stage}.{block}.conv{k}": "stack{stage0}_block{block}_{k}_conv",
                "stage{stage}.{block}.bn{k}": "stack{stage0}_block{block}_{k}_bn",
                "stage{stage}.{block}.downsample_conv": "stack{stage0}_block{block}_0_conv",
                "stage{stage}.{block}.downsample_bn": "stack{stage0}_block{block}_0_bn",
                "fc": "predictions",
            },
            "ResNetBackbone and ResNetImageClassifier of Keras Hub: layer name and variable name, joined by a dot",
            KERAS_STATE,
            published_variant="v1.5",
        ),
        Dialect(
            "flax-linen",
            "flax",
            {
                "conv1": "conv_init",
                "bn1": "bn_init",
                "stage{stage}.{block}.conv{k}": "BottleneckResNetBlock_{flat}.Conv_{k0}",
                "stage{stage}.{block}.bn{k}": "BottleneckResNetBlock_{flat}.BatchNorm_{k0}",
                "stage{stage}.{block}.downsample_conv": "BottleneckResNetBlock_{flat}.conv_proj",
                "stage{stage}.{block}.downsample_bn": "BottleneckResNetBlock_{flat}.norm_proj",
                "fc": "Dense_0",
            },
            "the ImageNet example of Flax, written in Linen: variables `params` and `batch_stats`",
            TRAINING_STATE,
            "flax",
            collections=("params.", "batch_stats."),
        ),
        Dialect(
            "tf-slim",
            "slim",
            {
                "conv1": "conv1",
                "bn1": "conv1.BatchNorm",
                "stage{stage}.{block}.conv{k}": "block{stage}.unit_{block1}.bottleneck_v1.conv{k}",
                "stage{stage}.{block}.bn{k}": "block{stage}.unit_{block1}.bottleneck_v1.conv{k}.BatchNorm",
                "stage{stage}.{block}.downsample_conv": "block{stage}.unit_{block1}.bottleneck_v1.shortcut",
                "stage{stage}.{block}.downsample_bn": "block{stage}.unit_{block1}.bottleneck_v1.shortcut.BatchNorm",
                "fc": "logits",
            },
            "resnet_v1_50 of TF-Slim (research/slim/nets/resnet_v1.py)",
            SLIM_STATE,
            is_written=False,
        ),
        Dialect(
            "keras-2",
            "keras",
            {
                "conv1": "conv1",
                "bn1": "bn_conv1",
                "stage{stage}.{block}.conv{k}": "res{stage1}{block_letter}_branch2{k_letter}",
                "stage{stage}.{block}.bn{k}": "bn{stage1}{block_letter}_branch2{k_letter}",
                "stage{stage}.{block}.downsample_conv": "res{stage1}{block_letter}_branch1",
                "stage{stage}.{block}.downsample_bn": "bn{stage1}{block_letter}_branch1",
                "fc": "fc1000",
            },
            "ResNet50 of keras-applications until 1.0.6 (resnet50.py), and keras-resnet: Caffe's names of the layers",
            KERAS_STATE,
            is_written=False,
        ),
    )
}
"""Every dialect, by name."""

WRITTEN = {name: dialect for name, dialect in DIALECTS.items() if dialect.is_written}
"""The dialects that files may be written in."""

ALIASES = {"torch": "canonical", "timm": "torchvision"}
"""Further names of dialects: impls.torch uses the canonical names, and timm uses those of torchvision."""


def find_dialect(name: str) -> Dialect:
    """Return the dialect with the given name or alias.

    Raises:
        ValueError: If there is none.
    """
    if (dialect := DIALECTS.get(ALIASES.get(name, name))) is None:
        raise ValueError(f"there is no dialect {name!r}; the dialects are {', '.join((*DIALECTS, *ALIASES))}")
    return dialect
