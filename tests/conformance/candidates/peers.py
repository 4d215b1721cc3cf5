"""Factories of other libraries' models, as a user writes them where a library's own takes no literals."""

from __future__ import annotations


def transformers_resnet(**arguments):
    from transformers import ResNetConfig, ResNetForImageClassification

    return ResNetForImageClassification(ResNetConfig(num_labels=10, **arguments))


def keras_hub_resnet(num_classes=10, **arguments):
    import keras_hub

    sizes = {
        "input_conv_filters": [64],
        "input_conv_kernel_sizes": [7],
        "stackwise_num_filters": [64, 128, 256, 512],
        "stackwise_num_blocks": [3, 4, 6, 3],
        "stackwise_num_strides": [1, 2, 2, 2],
        "block_type": "bottleneck_block",
    }
    backbone = keras_hub.models.ResNetBackbone(**sizes | arguments)
    return keras_hub.models.ResNetImageClassifier(backbone=backbone, num_classes=num_classes)
