"""Probes: activations of the suite's own choice in the place of a candidate's, and what a worker makes of them."""

from __future__ import annotations

import numpy as np
import pytest

from conformance.cases.probe import Probe
from conformance.localise import small_network
from conformance.plan import Plan, Rerun, write_files
from conformance.run.adapters.numpy import Oracle
from conformance.run.implementations import IMPLEMENTATIONS
from conformance.run.probes import run_probe
from conformance.trace import ArrayFolder
from impls.config import VARIANTS

NETWORK = small_network(VARIANTS["v1.5"], seed=0)
IMAGES = NETWORK.batch.images
LARGER = np.random.default_rng(0).normal(size=(5, 4, 9, 7))
"""A map of another batch, height and width than any of the network's."""


@pytest.fixture
def oracle(tmp_path):
    NETWORK.weights.to("canonical").save(tmp_path / "weights.safetensors")
    adapter = Oracle()
    adapter.prepare("cpu", "float64")
    adapter.build(NETWORK.config, tmp_path / "weights.safetensors")
    return adapter


def test_a_probe_is_fed_to_a_layer_and_ends_at_its_output(oracle, tmp_path):
    run_probe(oracle, Probe("p", IMAGES, {"stage1.0.bn1": LARGER}, "stage1.0.conv2"), tmp_path / "p")
    outputs = ArrayFolder(tmp_path / "p")
    assert list(outputs) == ["stage1.0.conv2"]
    layer = oracle.model.stage1[0].conv2
    np.testing.assert_array_equal(outputs["stage1.0.conv2"], layer(np.maximum(LARGER, 0)))


def test_a_probe_without_target_keeps_every_activation_as_it_was_computed(oracle, tmp_path):
    stem = np.zeros((2, 4, 6, 6))
    run_probe(oracle, Probe("p", IMAGES, {"stem": stem}, train=True), tmp_path / "p")
    outputs = ArrayFolder(tmp_path / "p")
    assert outputs["stem"].any()
    assert not outputs["stage1.0.conv1"].any()
    assert "stage4.0.bn3.running_var" in outputs


def test_a_wanted_activation_that_never_comes_is_an_error(oracle, tmp_path):
    with pytest.raises(LookupError, match="stage9"):
        run_probe(oracle, Probe("p", IMAGES, target="stage9"), tmp_path / "p")


def test_hooks_that_an_adapter_leaves_behind_do_no_harm(oracle, tmp_path):
    class Leaving(Oracle):
        def run_tapped(self, images, train, tap):
            taps.append(tap)
            return super().run_tapped(images, train, tap)

    taps = []
    oracle.__class__ = Leaving
    run_probe(oracle, Probe("p", IMAGES, {"conv1": LARGER}, "bn1"), tmp_path / "p")
    assert taps[0]("conv1", LARGER) is None
    assert taps[0]("bn1", LARGER) is None


def test_a_worker_runs_probes_without_cases_and_says_why_one_failed(tmp_path):
    torch = IMPLEMENTATIONS["torch"]
    plan = Plan({"v1.5": NETWORK}, [torch], ["float64"], tmp_path, device="cpu", threads=1)
    probes = [
        Probe("right", IMAGES, {"stage1.0.bn1": LARGER}, "stage1.0.conv2"),
        Probe("wrong", IMAGES, {"stage1.0.bn1": LARGER[:, :3]}, "stage1.0.conv2"),
    ]
    rerun = Rerun(plan, write_files(plan), lambda event: None)
    run = rerun([torch], "float64", [], NETWORK, probes=probes)["torch"]
    assert run.probed["right"].arrays["stage1.0.conv2"].shape == (5, 4, 9, 7)
    assert "channels" in run.probed["wrong"].failure
    assert not run.probed["right"].failure
    run.discard()
