"""Presets of Keras Hub: folders that only this library can write. Reading them does not import it."""

from __future__ import annotations

import warnings
from pathlib import Path

from weights_convert.configurations import CONFIG, found_in
from weights_convert.containers.contents import Arrays, Contents, Metadata, ReadFile
from weights_convert.containers.keras_models import add_metadata, buildable_network, common_dtype, fill
from weights_convert.packages import import_optional

BACKBONE, TASK = "model.weights.h5", "task.weights.h5"
"""The files of a preset: the backbone, and the task (its head, or all of it) if there is one."""

TASK_CONFIG = "task.json"
"""The configuration of the task; that of the backbone is a `config.json`."""


def is_folder(folder: Path) -> bool:
    """Return whether a folder is a Keras Hub preset."""
    return (folder / BACKBONE).is_file()


def read(folder: Path, read_file: ReadFile) -> Contents:
    """Read the arrays of a preset's backbone and of the head of its task, and pass on the configs of both."""
    arrays, metadata = read_file(folder / BACKBONE)
    configurations = found_in(folder, CONFIG)
    if (folder / TASK).is_file():
        has_config = (folder / TASK_CONFIG).is_file()  # without it, nothing says how the head pools
        configurations = found_in(folder, TASK_CONFIG, configurations) if has_config else {}
        head, head_metadata = read_file(folder / TASK)
        arrays, metadata = arrays | head, metadata | head_metadata
    return arrays, metadata | configurations


def write(folder: Path, arrays: Arrays, metadata: Metadata) -> None:
    """Write a preset for `from_preset` of Keras Hub's ResNetImageClassifier or ResNetBackbone.

    Raises:
        ConversionError: If Keras Hub has no such network, or is not installed.
    """
    config = buildable_network(metadata, folder, "Keras Hub's ResNetBackbone", "v1.5")
    dtype = common_dtype(arrays, folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the libraries it imports, and that the model was not compiled
        keras_hub = import_optional("keras_hub", "keras-hub", str(folder))
        model = backbone = keras_hub.models.ResNetBackbone(
            input_conv_filters=[config.width],
            input_conv_kernel_sizes=[7],
            stackwise_num_filters=[config.width * 2**stage for stage in range(4)],
            stackwise_num_blocks=list(config.depths),
            stackwise_num_strides=[1, 2, 2, 2],
            block_type="bottleneck_block",
            image_shape=(None, None, config.in_channels),
            dtype=dtype,
        )
        if config.num_classes:
            model = keras_hub.models.ResNetImageClassifier(backbone, num_classes=config.num_classes, dtype=dtype)
        fill([*backbone.layers, *model.layers], arrays, folder)
        model.save_to_preset(str(folder))
    # The metadata describes the whole network. The backbone's file, which can be read alone, is only a part of it.
    add_metadata(folder / (TASK if config.num_classes else BACKBONE), metadata)
