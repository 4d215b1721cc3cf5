"""The table of published checkpoints, compared row by row with the libraries that publish them.

torchvision and timm are imported. Keras, Keras Hub and transformers take seconds to import and hold the facts as
literals, so their sources are read instead.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from impls.config import VARIANTS
from weights_convert.dialects import DIALECTS
from weights_convert.published import BY_NAME, PUBLISHED, Preprocessing, Published

DEPTHS = {"resnet50": 50, "resnet101": 101, "resnet152": 152}


def rows_of(origin: str) -> dict[str, Published]:
    """Return the rows of a library, by the name without its scheme."""
    return {row.name.partition("://")[2]: row for row in PUBLISHED if row.origin == origin}


def source_of(module: str) -> ast.Module:
    """Parse the source of an installed module without importing it."""
    package, _, rest = module.partition(".")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip(f"{package} is not installed")
    return ast.parse(Path(spec.submodule_search_locations[0], *rest.split(".")).with_suffix(".py").read_text())


def literal(tree: ast.AST, name: str) -> Any:
    """Return the value that a source assigns to a name. If it does so in several places, the values must be equal."""
    values = [
        ast.literal_eval(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and node.value is not None
        and name
        in [ast.unparse(target) for target in (node.targets if isinstance(node, ast.Assign) else [node.target])]
    ]
    assert values
    assert all(value == values[0] for value in values)
    return values[0]


def function(tree: ast.Module, name: str) -> ast.FunctionDef:
    return next(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == name)


class TestTorchvision:
    @pytest.fixture(scope="class")
    @classmethod
    def library(cls) -> Any:
        return pytest.importorskip("torchvision")

    def test_every_checkpoint_of_these_networks_has_a_row(self, library: Any):
        theirs = {
            f"{architecture}.{weights.name}"
            for architecture in DEPTHS
            for weights in library.models.get_model_weights(architecture)
        }
        assert set(rows_of("torchvision")) == theirs

    @pytest.mark.parametrize("name", rows_of("torchvision"))
    def test_a_row_states_the_facts_of_the_library(self, library: Any, name: str):
        architecture, _, weights = name.partition(".")
        row, theirs = rows_of("torchvision")[name], library.models.get_model_weights(architecture)[weights]
        transform = theirs.transforms()
        assert (row.address, row.depth) == (theirs.url, DEPTHS[architecture])
        assert row.digest == "sha256:" + re.search(r"-([0-9a-f]{8,})\.pth", theirs.url)[1]  # as torch.hub reads it
        assert row.classes == len(theirs.meta["categories"])
        assert row.preprocessing == Preprocessing(
            crop=transform.crop_size[0],
            resize=transform.resize_size[0],
            interpolation=transform.interpolation.value,
            mean=tuple(transform.mean),
            std=tuple(transform.std),
        )


class TestTimm:
    @pytest.fixture(scope="class")
    @classmethod
    def library(cls) -> Any:
        return pytest.importorskip("timm")

    def test_every_checkpoint_of_these_networks_has_a_row(self, library: Any):
        theirs = {
            name
            for architecture in DEPTHS
            for name in library.list_pretrained()
            if name.partition(".")[0] == architecture
        }
        assert set(rows_of("timm")) == {f"timm/{name}" for name in theirs}

    @pytest.mark.parametrize("name", rows_of("timm"))
    def test_a_row_states_the_facts_of_the_library(self, library: Any, name: str):
        from timm.data import create_transform, resolve_data_config

        row, model = rows_of("timm")[name], name.removeprefix("timm/")
        theirs = library.models.get_pretrained_cfg(model)
        assert row.address == f"hf://{theirs.hf_hub_id}"
        assert (row.depth, row.classes) == (DEPTHS[theirs.architecture], theirs.num_classes)
        assert theirs.first_conv == "conv1"  # the plain stem
        config = resolve_data_config(pretrained_cfg=theirs.to_dict())
        resize, crop, _, normalize = create_transform(**config).transforms
        np.testing.assert_allclose(
            np.ravel([normalize.mean, normalize.std]), [*config["mean"], *config["std"]], rtol=1e-6
        )
        assert row.preprocessing == Preprocessing(
            crop=crop.size[0],
            resize=resize.size,
            interpolation=resize.interpolation.value,
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
        )


class TestTransformers:
    def test_the_checkpoint_that_the_source_names_has_a_row(self):
        source = source_of("transformers.models.resnet.configuration_resnet")
        (config,) = (node for node in source.body if isinstance(node, ast.ClassDef))
        (named,) = re.findall(r"auto_docstring\(checkpoint='(.*?)'\)", ast.unparse(config.decorator_list[0]))
        row = BY_NAME[f"hf://{named}"]
        assert row.depth == 3 * sum(literal(config, "depths")) + 2
        assert (row.variant, literal(config, "downsample_in_bottleneck")) == ("v1.5", False)
        assert literal(config, "downsample_in_first_stage") is False

    def test_the_other_rows_differ_only_in_depth(self):
        rows = rows_of("transformers")
        assert [row.depth for row in rows.values()] == [50, 101, 152]
        assert len({(row.dialect, row.variant, row.classes, row.preprocessing) for row in rows.values()}) == 1
        assert all(row.address == row.name == f"hf://microsoft/resnet-{row.depth}" for row in rows.values())


class TestKerasApplications:
    def test_addresses_and_hashes(self):
        source = source_of("keras.src.applications.resnet")
        folder, hashes = literal(source, "BASE_WEIGHTS_PATH"), literal(source, "WEIGHTS_HASHES")
        names = re.findall(r'f"\{weights_name\}(_weights\S*)"', ast.unparse(source).replace("'", '"'))
        assert names == ["_weights_tf_dim_ordering_tf_kernels.h5", "_weights_tf_dim_ordering_tf_kernels_notop.h5"]
        theirs = {
            f"{architecture}{ending}": (f"{folder}{architecture}{name}", f"md5:{digits}", classes)
            for architecture in DEPTHS
            for ending, name, digits, classes in zip(
                ("", "_notop"), names, hashes[architecture], (1000, 0), strict=True
            )
        }
        rows = rows_of("keras.applications")
        assert {name: (row.address, row.digest, row.classes) for name, row in rows.items()} == theirs

    def test_preprocessing_is_caffes(self):
        call = function(source_of("keras.src.applications.resnet"), "preprocess_input")
        assert "mode='caffe'" in ast.unparse(call)
        caffe = ast.unparse(function(source_of("keras.src.applications.imagenet_utils"), "_preprocess_numpy_input"))
        caffe = caffe[caffe.rindex("else:\n        if data_format") :]  # what follows the modes "tf" and "torch"
        assert "x = x[..., ::-1]\n        mean = [103.939, 116.779, 123.68]\n        std = None" in caffe
        assert "default_size=224" in ast.unparse(source_of("keras.src.applications.resnet"))
        expected = Preprocessing(224, None, None, 1.0, (103.939, 116.779, 123.68), (1.0, 1.0, 1.0), "BGR")
        assert {row.preprocessing for row in rows_of("keras.applications").values()} == {expected}


class TestKerasHub:
    def test_presets(self):
        presets = literal(source_of("keras_hub.src.models.resnet.resnet_presets"), "backbone_presets")
        theirs = {
            name: preset["kaggle_handle"]
            for name, preset in presets.items()
            if re.fullmatch("resnet_(50|101|152)_imagenet", name)  # neither vd nor v2
        }
        assert {name: row.address for name, row in rows_of("keras-hub").items()} == theirs
        for name, row in rows_of("keras-hub").items():
            assert presets[name]["metadata"]["description"].startswith(f"{row.depth}-layer ResNet model")


def test_names_are_unique():
    assert len(BY_NAME) == len(PUBLISHED)


def test_every_dialect_and_variant_exists():
    assert {row.dialect for row in PUBLISHED} <= set(DIALECTS)
    assert {row.variant for row in PUBLISHED} <= set(VARIANTS)


def test_a_row_states_how_its_variant_is_known():
    assert BY_NAME["keras://resnet50"].recognised_by == "published by keras.applications as keras"
