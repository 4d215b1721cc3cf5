"""Finding the network behind prefixes, among several, and with other things beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from weights_convert import Checkpoint, ConversionError, inspect, load
from weights_convert.dialects import DIALECTS, WRITTEN
from weights_convert.recognition import Choice, select
from weights_convert.recognition.subtrees import subtree

MakeCheckpoint = Callable[..., Checkpoint]
Arrays = dict[str, np.ndarray]


def under(prefix: str, arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Return arrays whose names begin with a prefix."""
    return {prefix + name: array for name, array in arrays.items()}


def some(*names: str) -> Arrays:
    """Return small arrays with the given names."""
    return {name: np.ones((2, 2), np.float32) for name in names}


@pytest.fixture
def whole(checkpoint_of: MakeCheckpoint) -> Arrays:
    """A network in the dialect of torchvision."""
    return dict(checkpoint_of(dialect="torchvision").arrays)


@pytest.fixture
def body(whole: Arrays) -> Arrays:
    """Return the network without its classifier."""
    return {name: array for name, array in whole.items() if not name.startswith("fc.")}


@pytest.fixture
def other(checkpoint_of: MakeCheckpoint) -> Arrays:
    """Another network of the same shapes."""
    return dict(checkpoint_of(dialect="torchvision", seed=1).arrays)


def read(arrays: Mapping[str, np.ndarray], **options: Any) -> Checkpoint:
    return load(arrays, variant="v1.5", **options)


def refusal(arrays: Mapping[str, np.ndarray], **options: Any) -> ConversionError:
    with pytest.raises(ConversionError) as refused:
        read(arrays, **options)
    return refused.value


class TestPrefixes:
    @pytest.mark.parametrize("dialect", WRITTEN)
    @pytest.mark.parametrize("prefix", ["model.", "net.", "module._orig_mod.", "backbone.0.body.", "a.b.c.d.e.f."])
    def test_any_prefix_is_stripped_and_said(self, prefix: str, dialect: str, checkpoint_of: MakeCheckpoint):
        checkpoint = checkpoint_of(dialect=dialect)
        found = read(under(prefix, checkpoint.arrays))
        assert found.dialect is DIALECTS[dialect]
        assert found.content_hash() == checkpoint.content_hash()
        assert found.notes == (f"its names begin with {prefix[:-1]!r}",)
        assert found.metadata()["found"] == f"its names begin with {prefix[:-1]!r}"

    @pytest.mark.parametrize("dialect", ["flax-linen", "transformers-flax"])
    def test_a_prefix_may_stand_behind_the_collection(self, dialect: str, checkpoint_of: MakeCheckpoint):
        checkpoint = checkpoint_of(dialect=dialect)
        arrays = {
            "state." + name.replace("params.", "params.net.").replace("batch_stats.", "batch_stats.net."): array
            for name, array in checkpoint.arrays.items()
        }
        found = read(arrays)
        assert found.content_hash() == checkpoint.content_hash()
        assert found.notes == ("its names begin with 'state.net'",)

    def test_a_network_at_the_top_is_not_noted(self, whole: Arrays):
        assert read(whole).notes == ()
        assert "found" not in read(whole).metadata()

    def test_two_prefixes_over_parts_of_one_network_are_refused(self, whole: Arrays):
        halves = {("a." if name.startswith("layer") else "b.") + name: array for name, array in whole.items()}
        (problem,) = refusal(halves).problems
        assert problem.startswith("its names belong to no known dialect ('a.layer1.0.bn1.bias'")
        problems = refusal(halves, dialect="torchvision").problems
        assert problems[0] == "torchvision has no rule for 'b.conv1.weight'"
        assert problems[-1].startswith("not a bottleneck ResNet")

    def test_two_spellings_of_the_same_arrays_are_refused(self, checkpoint_of: MakeCheckpoint):
        """Names of a network of transformers without its classifier lack a prefix."""
        arrays = checkpoint_of(dialect="transformers").arrays
        again = {name.removeprefix("resnet."): array for name, array in arrays.items()}
        assert not subtree(DIALECTS["transformers"], {**arrays, **again}).is_whole
        assert "'encoder.stages' lies beside the network 'resnet' (95 arrays)" in refusal({**arrays, **again}).problems

    def test_a_layer_that_no_network_has_makes_it_no_whole_network(self, whole: Arrays):
        assert subtree(DIALECTS["torchvision"], whole).is_whole
        whole["layer1.1.downsample.0.weight"] = np.ones((16, 16, 1, 1), np.float32)
        assert not subtree(DIALECTS["torchvision"], whole).is_whole
        assert refusal(whole).problems == ("'layer1.1.downsample.0.weight' has no place in this network",)

    def test_a_prefix_ends_at_a_dot(self, whole: Arrays):
        (problem,) = refusal(under("old_", whole)).problems
        assert problem.startswith("its names belong to no known dialect ('old_bn1.bias'")

    def test_what_a_prefix_hides_is_compared_like_any_other(self, whole: Arrays):
        del whole["layer3.0.bn2.bias"]
        problems = refusal(under("net.", whole)).problems
        assert problems == ("'layer3.0.bn2.bias' is missing",)


class TestSeveralNetworks:
    def test_are_listed_and_one_is_asked_for(self, whole: Arrays, other: Arrays):
        error = refusal(under("teacher.", other) | under("student.module.", whole))
        assert error.problems == ("it holds 2 networks: 'teacher' (torchvision), 'student.module' (torchvision)",)
        assert "--entry teacher or --entry student.module" in error.advice

    @pytest.mark.parametrize("entry", ["student.module", "module", "student"])
    def test_one_is_read_by_its_path_or_a_part_of_it(
        self, entry: str, whole: Arrays, other: Arrays, checkpoint_of: MakeCheckpoint
    ):
        found = read(under("teacher.", other) | under("student.module.", whole), entry=entry)
        assert found.content_hash() == checkpoint_of().content_hash()
        assert list(found.dropped) == ["teacher"]

    def test_an_unknown_entry_is_refused_with_the_known_ones(self, whole: Arrays):
        (problem,) = refusal(under("teacher.", whole), entry="ema").problems
        assert problem == "it holds no network at 'ema'; it holds networks at 'teacher'"

    def test_a_part_that_two_paths_share_is_refused(self, whole: Arrays, other: Arrays):
        arrays = under("a.net.", whole) | under("b.net.", other)
        assert refusal(arrays, entry="net").problems[0].startswith("it holds 2 networks: 'a.net'")
        assert read(arrays, entry="b.net").content_hash() == read(other).content_hash()

    def test_a_damaged_one_is_not_passed_over_for_a_whole_one(self, whole: Arrays, other: Arrays):
        del whole["layer3.0.bn2.bias"]
        error = refusal(under("model.", whole) | under("teacher.", other))
        assert error.problems == (f"'model' lies beside the network 'teacher' ({len(whole)} arrays)",)

    def test_of_different_dialects_are_listed(self, whole: Arrays, checkpoint_of: MakeCheckpoint):
        error = refusal(under("a.", whole) | under("b.", checkpoint_of(dialect="flax").arrays))
        assert error.problems == ("it holds 2 networks: 'b' (flax), 'a' (torchvision)",)


class TestAverages:
    @pytest.mark.parametrize(("last", "average"), [("state_dict", "state_dict_ema"), ("model", "model_ema")])
    def test_are_read_on_request(self, last: str, average: str, whole: Arrays, other: Arrays):
        arrays = under(f"{average}.module.", other) | under(f"{last}.", whole)
        assert read(arrays).content_hash() == read(whole).content_hash()
        assert list(read(arrays).dropped) == [average]
        averaged = read(arrays, averaged=True)
        assert averaged.content_hash() == read(other).content_hash()
        assert averaged.dropped == {last: "the last weights"}

    def test_are_read_if_there_is_nothing_else(self, whole: Arrays):
        assert read(under("state_dict_ema.", whole)).content_hash() == read(whole).content_hash()

    def test_are_not_passed_off_for_last_weights_that_are_damaged(self, whole: Arrays, other: Arrays):
        del whole["layer3.0.bn2.bias"]
        error = refusal(under("model_ema.", other) | under("model.", whole))
        assert error.problems == ("'layer3.0.bn2.bias' is missing",)

    def test_that_are_missing_are_reported(self, whole: Arrays):
        problem = "it holds no averaged weights (state_dict_ema or model_ema)"
        for arrays in (whole, under("model.", whole)):
            assert refusal(arrays, averaged=True).problems == (problem,)

    def test_have_a_counter_beside_them(self, whole: Arrays):
        arrays = under("model_ema.module.", whole) | {"model_ema.n_averaged": np.array(3)}
        assert read(arrays).dropped == {"model_ema.n_averaged": "the count of averaged steps"}


class TestThingsBesideTheNetwork:
    KNOWN: tuple[str, ...] = (
        "optimizer.state.0.exp_avg", "optimizer_states.0.state.0.exp_avg", "opt.state.0.exp_avg",
        "lr_schedulers.0.last", "scaler.scale", "fp16_scaler.scale", "epoch", "global_step", "rng.cuda.0",
    )  # fmt: skip

    @pytest.mark.parametrize("name", KNOWN)
    def test_that_training_keeps_are_left_out_by_name(self, name: str, whole: Arrays):
        found = read(under("state_dict.", whole) | some(name))
        assert found.content_hash() == read(whole).content_hash()
        assert list(found.dropped) == [name.partition(".")[0]]
        assert name.partition(".")[0] in found.metadata()["left_out"]

    def test_that_training_keeps_are_not_looked_for_inside_the_network(self, whole: Arrays):
        assert refusal(under("net.", whole) | some("net.step")).problems == ("torchvision has no rule for 'net.step'",)

    def test_are_refused_with_the_options_that_leave_them_out(self, body: Arrays):
        arrays = under("module.", body) | some("module.projection_head.0.weight", "module.projection_head.0.bias")
        error = refusal(arrays | some("module.prototypes.weight"))
        assert error.problems == (
            "torchvision has no rule for 'module.projection_head.0' (2 arrays)",
            "torchvision has no rule for 'module.prototypes.weight'",
        )
        assert "--drop module.projection_head.0 --drop module.prototypes.weight" in error.advice

    @pytest.mark.parametrize(
        "drop", [["module.projection_head", "module.prototypes.weight"], ["projection_head", "prototypes"]]
    )
    def test_are_left_out_on_request(self, drop: Sequence[str], body: Arrays):
        arrays = under("module.", body) | some("module.projection_head.0.weight", "module.prototypes.weight")
        found = read(arrays, drop=drop)
        assert found.content_hash() == read(body).content_hash()
        assert found.dropped == dict.fromkeys(drop, "left out on request")

    def test_cannot_be_dropped_if_they_are_not_there(self, whole: Arrays):
        (problem,) = refusal(whole, drop=["queue"]).problems
        assert problem == "it holds nothing of the name 'queue' that could be dropped"

    def test_of_another_network_can_be_dropped(self, whole: Arrays, other: Arrays):
        arrays = under("student.", whole) | under("teacher.", other)
        assert read(arrays, drop=["teacher"]).content_hash() == read(whole).content_hash()

    def test_that_belong_to_the_network_are_missed_if_dropped(self, whole: Arrays):
        assert "'layer4.0.conv3.weight' is missing" in refusal(whole, drop=["layer4.0.conv3"]).problems

    def test_outside_of_the_prefix_are_left_out_by_the_entry(self, body: Arrays):
        arrays = under("m.backbone.", body) | some("m.queue", "m.head.weight")
        error = refusal(arrays)
        assert error.problems == (
            "'m.queue' lies beside the network 'm.backbone'",
            "'m.head.weight' lies beside the network 'm.backbone'",
        )
        assert "--entry m.backbone" in error.advice
        found = read(arrays, entry="m.backbone")
        assert found.content_hash() == read(body).content_hash()
        assert set(found.dropped) == {"m.queue", "m.head.weight"}

    def test_inside_of_the_entry_are_still_refused(self, body: Arrays):
        arrays = under("m.", body) | some("m.queue", "x")
        assert refusal(arrays, entry="m").problems == ("torchvision has no rule for 'm.queue'",)


class TestOtherValues:
    """Values that are no arrays, which PyTorch's checkpoints hold."""

    def select(self, names: Mapping[str, object], others: dict[str, str], **choice: Any) -> tuple[Any, ...]:
        selection = select(list(names), others, Choice(**choice))
        return dict(selection.dropped), selection.problems

    def test_above_the_network_are_left_out_by_name(self, whole: Arrays):
        others = {"epoch": "of type int", "seed": "of type int", "note": "of type str"}
        dropped, problems = self.select(under("model.", whole), others)
        assert problems == ()
        assert dropped == {
            "epoch": "a count of the training loop",
            "seed": "no array, but of type int",
            "note": "no array, but of type str",
        }

    def test_of_unknown_classes_are_asked_for(self, whole: Arrays):
        others = {"ema": "an object of yolo.Model"}
        names = under("model.", whole)
        assert self.select(names, others) == ({}, ("'ema' is an object of yolo.Model, which is not built",))
        assert self.select(names, others, drop=["ema"]) == ({"ema": "left out on request"}, ())
        assert self.select(names, others, entry="model")[1] == ()

    def test_beside_arrays_of_the_network_are_refused(self, whole: Arrays):
        for prefix in ("", "model."):
            names = under(prefix, whole)
            del names[f"{prefix}fc.bias"]
            _, problems = self.select(names, {f"{prefix}fc.bias": "of type list"})
            assert f"'{prefix}fc.bias' is of type list, expected an array" in problems


@pytest.mark.parametrize("name", ["optimal.weight", "step_embedding.weight", "argsort.weight", "rng2.bias"])
def test_a_name_that_only_begins_like_a_known_one_is_not_left_out(name: str, whole: Arrays):
    assert f"{name!r} lies beside the network 'net'" in refusal(under("net.", whole) | some(name)).problems


def test_an_entry_ends_at_a_dot(whole: Arrays):
    found = read(under("a.net.", whole) | some("ab.queue"), entry="a")
    assert list(found.dropped) == ["ab.queue"]


class TestHeads:
    def test_a_layer_that_holds_more_than_a_linear_layer_is_no_classifier(self, body: Arrays, whole: Arrays):
        own = {name.replace("fc.", "own."): array for name, array in whole.items() if name.startswith("fc.")}
        assert read(body | own, head="own").config.num_classes == 5
        problem = "it holds no linear layer 'own', with the arrays 'weight' and 'bias' and no others"
        assert problem in refusal(body | own | {"own.scale": own["own.bias"]}, head="own").problems

    @pytest.mark.parametrize("path", ["fc.0", "fc.1", "head", "head.fc", "classifier", "classifier.1"])
    @pytest.mark.parametrize("prefix", ["", "net."])
    def test_of_known_spellings_are_found_and_said(self, path: str, prefix: str, whole: Arrays):
        arrays = {prefix + name.replace("fc.", f"{path}."): array for name, array in whole.items()}
        found = read(arrays)
        assert found.content_hash() == read(whole).content_hash()
        assert found.notes[-1] == f"its classifier is {prefix + path!r}"

    def test_of_mmpretrain_stand_beside_the_backbone(self, whole: Arrays, body: Arrays):
        head = {f"state_dict.head.{name}": whole[name] for name in ("fc.weight", "fc.bias")}
        found = read(under("state_dict.backbone.", body) | head)
        assert found.content_hash() == read(whole).content_hash()

    @pytest.mark.parametrize("prefix", ["", "net."])
    def test_of_several_layers_are_refused_and_can_be_dropped(self, prefix: str, body: Arrays):
        head = some(*(f"{prefix}fc.{layer}.{leaf}" for layer in (0, 2) for leaf in ("weight", "bias")))
        arrays = under(prefix, body) | head
        error = refusal(arrays)
        assert error.problems == (f"torchvision has no rule for '{prefix}fc' (4 arrays)",)
        assert "no single linear layer; --drop-head leaves it out" in error.advice
        found = read(arrays, drop_head=True)
        assert found.content_hash() == read(body).content_hash()
        assert found.dropped == {f"{prefix}fc": "left out on request"}

    def test_with_another_layer_beside_them_are_not_taken(self, whole: Arrays):
        arrays = {name.replace("fc.", "fc.1."): array for name, array in whole.items()}
        assert refusal(arrays | some("fc.0.weight")).problems == ("torchvision has no rule for 'fc' (3 arrays)",)

    def test_of_two_spellings_are_not_chosen_between(self, whole: Arrays, body: Arrays):
        heads = {
            f"{place}.{leaf}": whole[f"fc.{leaf}"] for place in ("head", "classifier") for leaf in ("weight", "bias")
        }
        assert len(refusal(body | heads).problems) == 2
        assert read(body | heads, head="head", drop=["classifier"]).config.num_classes == 5

    def test_beside_the_network_are_asked_for(self, whole: Arrays, body: Arrays):
        arrays = under("m.features.", body) | {f"m.linear.{leaf}": whole[f"fc.{leaf}"] for leaf in ("weight", "bias")}
        assert "--head m.linear" in refusal(arrays).advice
        for head in ("m.linear", "linear"):
            found = read(arrays, head=head)
            assert found.content_hash() == read(whole).content_hash()
            assert found.notes == ("its names begin with 'm.features'", "its classifier is 'm.linear'")

    def test_that_are_not_there_are_refused(self, whole: Arrays):
        (problem,) = refusal(whole, head="linear").problems
        assert problem == "it holds no linear layer 'linear', with the arrays 'weight' and 'bias' and no others"

    def test_of_another_width_are_refused(self, body: Arrays):
        arrays = body | {"head.weight": np.ones((5, 7), np.float32), "head.bias": np.ones(5, np.float32)}
        assert refusal(arrays).problems == ("'fc.weight' has the shape (5, 7), expected (5, 128)",)

    @pytest.mark.parametrize("dialect", WRITTEN)
    def test_are_dropped_on_request_in_every_dialect(self, dialect: str, checkpoint_of: MakeCheckpoint):
        arrays = checkpoint_of(dialect=dialect).arrays
        found = read(arrays, drop_head=True)
        assert found.config.num_classes == 0
        expected = {name: array for name, array in checkpoint_of().arrays.items() if not name.startswith("fc.")}
        assert {name: array.tobytes() for name, array in found.to("canonical").arrays.items()} == {
            name: array.tobytes() for name, array in expected.items()
        }
        assert set(found.dropped.values()) == {"left out on request"}


def test_an_unknown_network_is_told_without_useless_advice():
    inspection = inspect(some("blocks.0.attn.qkv.weight", "cls_token"))
    assert inspection.problems == ("its names belong to no known dialect ('blocks.0.attn.qkv.weight', 'cls_token')",)
    assert inspection.advice == ""
