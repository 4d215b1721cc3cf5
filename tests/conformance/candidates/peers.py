"""Factories of other libraries' models, as a user writes them where a library's own takes no literals."""

from __future__ import annotations


def transformers_resnet(**arguments):
    from transformers import ResNetConfig, ResNetForImageClassification

    return ResNetForImageClassification(ResNetConfig(num_labels=10, **arguments))
