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

import numpy as np

from impls.config import ResNetConfig
from weights_convert.containers import hdf5_file, keras_models
from weights_convert.containers.archives import check_archive
from weights_convert.metadata import of_network

WEIGHTS = "model.weights.h5"
OWN_MODEL = "resnet_parity>ResNet"
"""The name under which impls.keras registers its model."""


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays by dotted name. Of impls.keras's own models, the config says which network it is.

    Raises:
        ConversionError: If the archive holds what is refused.
    """
    check_archive(path)
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
        arrays, metadata = hdf5_file.read_open(io.BytesIO(archive.read(WEIGHTS)), f"{path}: {WEIGHTS}")
        if keras_models.METADATA in archive.namelist():
            metadata = {str(key): str(value) for key, value in json.loads(archive.read(keras_models.METADATA)).items()}
    return arrays, metadata or _own_metadata(config)


def write(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a whole model.

    Raises:
        ConversionError: If it is a model that nobody here knows how to write down.
    """
    WRITERS[metadata["dialect"]](path, arrays, metadata)


def write_own(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a model of impls.keras, which Keras loads once `impls.keras` is imported."""
    config = json.loads(metadata["config"])
    # HDF5 seeks, an archive cannot. A file without a name is not left behind, however the process ends.
    with tempfile.TemporaryFile(dir=path.parent) as weights, zipfile.ZipFile(path, "w") as archive:
        hdf5_file.write(weights, arrays, metadata)
        weights.seek(0)
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.12.0"}))
        archive.writestr("config.json", json.dumps(_own_model(config, metadata["dtype"])))
        with archive.open(WEIGHTS, "w", force_zip64=True) as entry:
            shutil.copyfileobj(weights, entry)


WRITERS = {"keras": write_own, "keras.applications": keras_models.write_archive}
"""What writes a model, by the dialect of its arrays."""


def _own_model(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """What Keras writes of a model of impls.keras."""
    return {
        "module": "impls.keras.resnet",
        "class_name": "ResNet",
        "config": {"name": "res_net", "config": dict(config) | {"dtype": dtype, "compute_dtype": dtype}},
        "registered_name": OWN_MODEL,
        "build_config": {"input_shape": [None, None, None, config["in_channels"]]},
        "compile_config": {},
    }


def _own_metadata(model: Any) -> dict[str, str]:
    """The metadata that our files have, from the config of a model that Keras saved."""
    if not isinstance(model, dict) or model.get("registered_name") != OWN_MODEL:
        return {}
    config = ResNetConfig.from_dict(model["config"]["config"])
    return of_network(config, "keras")
