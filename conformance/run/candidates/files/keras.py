"""Adapter of `.keras` files: the model that a file describes, with the weights that are in it."""

from __future__ import annotations

import json
import os
import re
import zipfile
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras

from conformance.run.candidates.keras import KerasCandidate
from conformance.run.candidates.options import Options
from conformance.run.candidates.survey import Unfit
from weights_convert.errors import first_line

BY_A_FACTORY = (
    "if it needs classes or functions of its own, give a factory that imports them and loads it, "
    "FILE.py:FACTORY, where it runs with your trust"
)


class KerasFile:
    """A model that a `.keras` file describes, loaded in Keras's safe mode, which runs no code of the file.

    Args:
        file: The file.
        precision: "float64" or "float32": the dtype of the layers that the file makes in float32.

    Raises:
        Unfit: If it cannot be read, or needs classes, functions or code of its own.
    """

    def __init__(self, file: Path, precision: str) -> None:
        try:
            with zipfile.ZipFile(file) as archive:
                self.config: dict[str, Any] = json.loads(archive.read("config.json"))
        except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
            raise Unfit(f"{file} is no whole .keras file: {first_line(error)}") from error
        try:
            self.model = keras.saving.deserialize_keras_object(in_precision(self.config, precision), safe_mode=True)
            self.model.load_weights(str(file))
        except Exception as error:  # Keras raises errors of many kinds
            raise Unfit(f"Keras cannot load {file} in safe mode: {reason_of(error)}; {BY_A_FACTORY}") from error


class KerasFileCandidate(KerasCandidate):
    """A `.keras` file, which keeps its weights."""

    def __init__(self, model: KerasFile, options: Options) -> None:
        super().__init__(model.model, options)
        self.config_in_file = model.config
        self.cannot["weights"] = "a .keras file keeps its weights"

    def facts(self) -> dict[str, Any]:
        """Return the configuration of one of this project's own models, or that in the file."""
        return super().facts() or self.config_in_file


def in_precision(config: Any, precision: str) -> Any:
    """Return a configuration of Keras in which what was float32 is of the precision; other policies stay as they are.

    Example:
        >>> in_precision({"dtype": "float32", "name": "float32"}, "float64")
        {'dtype': 'float64', 'name': 'float32'}
        >>> in_precision({"class_name": "DTypePolicy", "config": {"name": "mixed_float16"}}, "float64")["config"]
        {'name': 'mixed_float16'}
    """
    if isinstance(config, list):
        return [in_precision(each, precision) for each in config]
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "DTypePolicy" and config["config"]["name"] == "float32":
        return {**config, "config": {**config["config"], "name": precision}}
    return {
        key: precision if key.endswith("dtype") and value == "float32" else in_precision(value, precision)
        for key, value in config.items()
    }


def reason_of(error: Exception) -> str:
    """Return the part of an error of Keras that says what is missing; else its first sentence."""
    missing = re.search(r"Could not locate (class|function) '[^']*'", str(error))
    return missing[0] if missing else first_line(error).partition(". ")[0]
