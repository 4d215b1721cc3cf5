"""Whatever is changed in a configuration and still accepted leaves the function as it is: the libraries are asked.

Values of real configurations are replaced one by one. Most changes are refused. A model that the library builds by a
configuration that is accepted must compute what the original does, bit for bit or within rounding in float64.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from random import Random
from typing import Any

import numpy as np
import pytest

from conformance.cases.inputs import noise
from tests.weights_convert.configurations.keras_networks import Builder, randomize
from tests.weights_convert.configurations.test_files import torch_logits
from tests.weights_convert.configurations.test_keras_model import of, serialised
from weights_convert.configurations import found, judge, transformers

pytestmark = pytest.mark.slow

LIMIT = 1e-12
"""Largest relative L2 error in float64, as in test_peers.py."""

TEXTS = {"valid": "same", "same": "valid", "channels_last": "channels_first", "relu": "tanh", "linear": "relu"}
BUILT = 40
"""Accepted changes that Keras builds and runs for each variant; each takes a second."""


def others(value: Any) -> list[Any]:
    """Return other values than the given one, some of another type."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value + 1, value * 2, 0.5]
    if isinstance(value, str):
        return [TEXTS.get(value, "x")]
    return [[2, 2], [1, 1], [[0, 1], [0, 1]]] if isinstance(value, list) else [True, 0.5, "relu", [2, 2]]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value in a configuration."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield (*path, key)
        yield from places(value[key], (*path, key))


def changed(config: Any, path: tuple[Any, ...], value: Any) -> Any:
    config = copy.deepcopy(config)
    place = config
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return config


@pytest.mark.parametrize("variant", ["v1.5", "keras"])  # the two that most files are of; half a minute each
def test_a_whole_keras_model(variant: str):
    import keras

    model = Builder(of(variant)).build()
    randomize(model)
    variables = {(layer.name, weight.name): np.array(weight) for layer in model.layers for weight in layer.weights}
    images = noise(48, 48, 1, 0).images.astype(np.float64).transpose(0, 2, 3, 1)
    expected = keras.ops.convert_to_numpy(model(images, training=False))
    config = serialised(model)
    paths = [
        path for path in places(config) if "build_config" not in path and not str(path[-1]).endswith("_initializer")
    ]
    random, built, refused = Random(0), 0, 0
    while built < BUILT:
        path = random.choice(paths)
        value = config
        for key in path:
            value = value[key]
        candidate = changed(config, path, random.choice(others(value)))
        if judge(found("config.json", candidate)).problems:
            refused += 1
            continue
        try:
            other = keras.saving.deserialize_keras_object(candidate)
            for layer in other.layers:
                for weight in layer.weights:
                    weight.assign(variables[layer.name, weight.name])
            got = keras.ops.convert_to_numpy(other(images, training=False))
        except Exception:  # whatever Keras raises, it is no model
            continue
        built += 1
        assert np.linalg.norm(got - expected) / np.linalg.norm(expected) < LIMIT, (path, value)
    assert refused > 0


def test_a_configuration_of_transformers():
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    sizes = {"embedding_size": 8, "hidden_sizes": [32, 64, 128, 256], "depths": [2, 1, 1, 1], "num_labels": 5}
    original = ResNetForImageClassification(ResNetConfig(**sizes))
    images = noise(48, 48, 1, 0).images.astype(np.float64)
    expected = torch_logits(original, images)
    state = original.state_dict()
    config = json.loads(original.config.to_json_string(use_diff=False))
    built = 0
    for name, row in transformers.FIELDS.items():
        if row.kind != "no part of the function":
            continue
        for value in others(config.get(name)):
            assert judge(found("config.json", config | {name: value})).problems == ()
            try:
                model = ResNetForImageClassification(ResNetConfig.from_dict(config | {name: value}))
                model.load_state_dict(state)
                with torch.no_grad():
                    output = model.double().eval()(torch.from_numpy(images))
            except Exception:  # whatever transformers raises, it is no model
                continue
            built += 1
            logits = output["logits"] if hasattr(output, "keys") else output[0]
            assert np.linalg.norm(logits.numpy() - expected) / np.linalg.norm(expected) < LIMIT, (name, value)
    assert built > 30
