"""A live object is checked in this process, and is as it was afterwards."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

import conformance
from tests.conformance.candidates import small_ports
from tests.conformance.conftest import small
from weights_convert import load


def states(model):
    """Everything that a check must leave alone: arrays, where they are, modes, gradients, generators and switches."""
    tensors = {name: (t.clone(), t.data_ptr(), t.dtype) for name, t in model.state_dict().items()}
    gradients = {name: p.grad for name, p in model.named_parameters()}
    modes = {name: module.training for name, module in model.named_modules()}
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    switches = (
        torch.is_grad_enabled(),
        torch.get_deterministic_debug_mode(),
        torch.backends.cuda.matmul.fp32_precision,
        torch.backends.cudnn.conv.fp32_precision,
        torch.get_default_dtype(),
    )
    generators = (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    return tensors, gradients, modes, hooks, switches, generators


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_a_live_module_conforms_and_is_left_as_it_was(precision):
    model = small_ports.port()
    model.layer1[0].eval()
    model.conv1.weight.grad = torch.ones_like(model.conv1.weight)
    before = states(model)
    report = conformance.check(model, variant="v1.5", precisions=[precision], tasks=["forward", "steps"])
    assert report.conforms, str(report)
    assert "Port: PyTorch module, its arrays named as in torchvision; v1.5 as given" in " ".join(str(report).split())
    after = states(model)
    for name, (tensor, pointer, dtype) in before[0].items():
        assert torch.equal(after[0][name][0], tensor), name
        assert after[0][name][1:] == (pointer, dtype)
    assert all(after[1][name] is gradient for name, gradient in before[1].items())
    assert torch.equal(model.conv1.weight.grad, torch.ones_like(model.conv1.weight))
    assert after[2:5] == before[2:5]
    for name, then, now in zip(("torch", "python", "numpy"), before[5], after[5], strict=True):
        assert now == then, name


def test_a_wrong_live_module_diverges_and_the_report_says_why():
    model = small_ports.port("wrong_eps")
    report = conformance.check(model, variant="v1.5", precisions=["float64"], inference=True)
    assert (report.conforms, report.verdict, report.exit_code) == (False, "diverges", 1)
    assert "likely cause: `eps-keras` at stage3.0.bn2" in str(report)


def test_the_wrong_layer_of_a_live_module_is_measured_where_no_known_fault_explains_it():
    model = small_ports.port(width=4)
    model.layer4[1].conv2.dilation = model.layer4[1].conv2.padding = (2, 2)
    report = conformance.check(model, variant="v1.5", precisions=["float64"], inference=True)
    text = " ".join(str(report).split())
    assert "measured: stage4.1.conv2 computes a 3x3 convolution with dilation 2 and padding 2; 1 and 1 are" in text
    assert "with this layer, the oracle reproduces your model's own run to" in text


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (small_ports.port(), {}, "Port: nothing tells which variant it is held against"),
        (small_ports.port(), {"variant": "v2"}, "there is no variant v2"),
        (3, {"variant": "v1.5"}, "the target gives a builtins.int; a model is a"),
        (torch.nn.Linear(2, 3), {"variant": "v1.5"}, "Linear: the names of its arrays belong to no known dialect"),
    ],
)
def test_what_cannot_be_checked_is_refused(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        conformance.check(model, **arguments)


def test_a_model_whose_norms_are_folded_is_judged_in_inference_mode_by_the_weights_that_it_was_made_from(small_weights):
    file, options = small_weights["v1.5"], {"variant": "v1.5", "precisions": ["float64"]}
    state = {name: torch.from_numpy(a) for name, a in load(file).to("torchvision").arrays.items()}
    model = small_ports.folded(state, depths=small("v1.5").depths)
    report = conformance.check(model, weights=file, inference=True, **options)
    assert report.conforms, str(report)
    assert "its norms are folded into its convolutions" in " ".join(str(report).split())
    names = {comparison["name"] for comparison in report.to_dict()["comparisons"]}
    assert {"stem", "stage1.1", "stage4.0", "pool", "logits"} <= names
    assert "parameters" not in names
    with pytest.raises(ValueError, match="keeps its weights and shows no layers: give those that it was made from"):
        conformance.check(model, **options)


def test_a_model_that_takes_one_size_alone_is_compared_at_that_size():
    options = {"variant": "v1.5", "precisions": ["float64"], "inference": True}
    report = conformance.check(small_ports.port("fixed_pool", width=4), **options)
    assert (report.verdict, "--size 224 gives images of 224x224 alone" in " ".join(str(report).split())) == (
        "incomplete",
        True,
    )
    report = conformance.check(small_ports.port("fixed_pool", width=4), size=224, **options)
    assert report.conforms, str(report)
    assert "takes images of 224x224 alone: no other size is compared" in " ".join(str(report).split())
    assert {c["input"] for c in report.to_dict()["comparisons"]} == {"photograph", "noise-224x224", "-"}
