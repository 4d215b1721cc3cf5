"""`.keras` files: a zip archive of a model's config as JSON and its weights as HDF5. No layer in it is built."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from impls.config import ResNetConfig
from weights_convert.configurations import found
from weights_convert.configurations.keras_model import OURS
from weights_convert.containers import hdf5_file, keras_models
from weights_convert.containers.archives import check_directory
from weights_convert.containers.contents import Arrays, Contents, Metadata
from weights_convert.errors import ConversionError
from weights_convert.metadata import PACKED, network_metadata, unpack

WEIGHTS = "model.weights.h5"


def read(path: Path) -> Contents:
    """Read arrays by dotted name, and pass on the config. That of a model of impls.keras tells which network it is.

    Raises:
        ConversionError: If an entry leads out of the archive, the HDF5 file in it refers to other files or promises
            more than it holds, or the config and our metadata describe different networks.
    """
    check_directory(path)
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
        arrays, metadata = hdf5_file.read_open(io.BytesIO(archive.read(WEIGHTS)), f"{path}: {WEIGHTS}")
        if keras_models.METADATA_ENTRY in archive.namelist():
            metadata = unpack({PACKED: archive.read(keras_models.METADATA_ENTRY).decode()})
    of_model = metadata_from_model(config)
    if metadata and of_model and not _describe_one_network(metadata, of_model):
        raise ConversionError(str(path), ["its config.json describes another network than its metadata"])
    return arrays, (metadata or of_model) | found("config.json", config)


def _describe_one_network(metadata: Metadata, of_model: Metadata) -> bool:
    """Return whether two metadata are of the same network, whatever its precision."""
    configs = [json.loads(each.get("config", "{}")) for each in (metadata, of_model)]
    for config in configs:
        for name in ("dtype", "compute_dtype"):
            config.pop(name, None)
    return bool(configs[0] == configs[1])


def write(path: Path, arrays: Arrays, metadata: Metadata) -> None:
    """Write a whole model, of impls.keras or of keras.applications according to the dialect.

    Raises:
        ConversionError: If keras.applications has no such network, or Keras is needed and not installed.
    """
    WRITERS[metadata["dialect"]](path, arrays, metadata)


def _write_our_model(path: Path, arrays: Arrays, metadata: Metadata) -> None:
    """Write a model of impls.keras, which Keras loads once `impls.keras` is imported."""
    config = json.loads(metadata["config"])
    # HDF5 needs a file that it can seek in. A temporary file without a name never remains, however the process ends.
    with tempfile.TemporaryFile(dir=path.parent) as weights, zipfile.ZipFile(path, "w") as archive:
        hdf5_file.write(weights, arrays, metadata)
        weights.seek(0)
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.12.0"}))
        archive.writestr("config.json", json.dumps(_model_config(config, metadata["dtype"])))
        with archive.open(WEIGHTS, "w", force_zip64=True) as entry:
            shutil.copyfileobj(weights, entry)


WRITERS = {"keras": _write_our_model, "keras.applications": keras_models.write_archive}
"""The function that writes a model, by the dialect of its arrays."""


def _model_config(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Return the config that Keras writes for a model of impls.keras."""
    return {
        "module": "impls.keras.resnet",
        "class_name": "ResNet",
        "config": {"name": "res_net", "config": dict(config) | {"dtype": dtype, "compute_dtype": dtype}},
        "registered_name": OURS,
        "build_config": {"input_shape": [None, None, None, config["in_channels"]]},
        "compile_config": {},
    }


def metadata_from_model(model: Any) -> dict[str, str]:
    """Return our metadata from the config of a model that Keras saved; empty if the model is not of impls.keras."""
    if not isinstance(model, dict) or model.get("registered_name") != OURS:
        return {}
    return network_metadata(ResNetConfig.from_dict(model["config"]["config"]), "keras")
