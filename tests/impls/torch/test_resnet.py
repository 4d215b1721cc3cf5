"""The PyTorch model behaves like any other `torch.nn.Module`."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from impls.config import VARIANTS
from impls.torch import Bottleneck, ResNet, resnet, resnet50
from weights_convert.shapes import expected_shapes

# Without a GPU, PyTorch warns when it looks for one after TensorFlow has done so in the same process.
pytestmark = pytest.mark.filterwarnings("ignore:CUDA initialization:UserWarning")


@pytest.fixture(scope="module")
def model(small, random_weights):
    return resnet(small, random_weights(small, "float32")).eval()


@pytest.fixture(scope="module")
def images(small_images):
    return torch.from_numpy(small_images)


@pytest.fixture(scope="module")
def logits(model, images):
    with torch.no_grad():
        return model(images)


def test_variant_keras_has_its_parameters_on_the_meta_device():
    with torch.device("meta"):
        model = resnet50("keras")
    assert sum(parameter.numel() for parameter in model.parameters()) == 25_583_592
    assert sum(not name.endswith("num_batches_tracked") for name in model.state_dict()) == 320
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}


def test_the_state_dict_has_the_canonical_names_and_batch_counters(model, small):
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    counters = {name: shapes.pop(name) for name in list(shapes) if name.endswith(".num_batches_tracked")}
    assert shapes == expected_shapes(small)
    assert set(counters.values()) == {()}
    assert {name.rpartition(".")[0] for name in counters} == {
        name.rpartition(".")[0] for name in shapes if name.endswith(".running_var")
    }


def test_a_canonical_safetensors_file_loads_with_plain_load_state_dict(model, small, random_weights, images, tmp_path):
    random_weights(small, "float32").save(tmp_path / "canonical.safetensors")
    fresh = resnet(small, seed=1)
    fresh.load_state_dict(load_file(tmp_path / "canonical.safetensors"), strict=True)
    assert torch.equal(fresh.eval()(images), model(images))


def test_without_a_classifier_the_model_returns_features(images):
    config = replace(VARIANTS["v1"], depths=(1, 1, 1, 1), num_classes=0)
    features = resnet(config, seed=0).eval()(images)
    assert features.shape == (2, 2048)
    assert not hasattr(resnet(config), "fc")


def test_it_compiles_into_one_graph(model, images, logits):
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        assert torch.equal(compiled(images), logits)


def test_activations_compile_into_one_graph(model, images, logits):
    torch._dynamo.reset()
    compiled = torch.compile(model.activations, fullgraph=True, backend="eager")
    with torch.no_grad():
        activations = compiled(images, layers=True)
        assert torch.equal(activations["logits"], logits)
        assert list(activations) == list(model.activations(images, layers=True))


def test_it_exports(model, images, logits):
    exported = torch.export.export(model, (images,)).module()
    with torch.no_grad():
        assert torch.equal(exported(images), logits)


def test_channels_last_memory_format_gives_the_same_logits(model, images, logits):
    channels_last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    with torch.no_grad():
        activations = channels_last.activations(images.to(memory_format=torch.channels_last))
    assert activations["stage4.0"].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(activations["logits"], logits)


def test_autocast_computes_in_bfloat16_with_float32_parameters(model, images, logits):
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        activations = model.activations(images, layers=True)
    assert activations["stage2.0.conv2"].dtype == activations["logits"].dtype == torch.bfloat16
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    distance = (activations["logits"].float() - logits).norm() / logits.norm()
    assert 1e-4 < distance < 0.05


def test_compute_dtype_is_rejected_in_favour_of_autocast(small):
    with pytest.raises(ValueError, match=r"torch\.autocast\(dtype=torch\.bfloat16\)"):
        resnet(replace(small, compute_dtype="bfloat16"))


def test_a_copy_shares_no_memory(model, images, logits):
    copied = copy.deepcopy(model)
    with torch.no_grad():
        copied.conv1.weight.zero_()
        assert torch.equal(model(images), logits)
        assert not torch.equal(copied(images), logits)


def test_a_training_step_moves_every_parameter_and_statistic(model, images):
    trained = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    torch.nn.functional.cross_entropy(trained(images), torch.tensor([1, 2])).backward()
    optimizer.step()
    before = model.state_dict()
    assert [name for name, tensor in trained.state_dict().items() if torch.equal(tensor, before[name])] == []


def test_the_global_seed_decides_unless_a_seed_is_given(small):
    def initial(seed=None):
        return resnet(small, seed=seed).fc.weight

    torch.manual_seed(5)
    first, second = initial(), initial()
    torch.manual_seed(5)
    assert torch.equal(initial(), first)
    assert not torch.equal(first, second)
    torch.manual_seed(6)
    with_seed = initial(seed=0)
    torch.manual_seed(7)
    assert torch.equal(initial(seed=0), with_seed)


def test_the_tutorials_constructor_takes_a_generator(small):
    first, second = (
        ResNet(Bottleneck, small.depths, 10, config=small, rng=torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_dtype_is_that_of_every_array(small, dtype):
    name = str(dtype).removeprefix("torch.")
    model = resnet(replace(small, dtype=name))
    assert {tensor.dtype for tensor in model.state_dict().values() if tensor.is_floating_point()} == {dtype}
