"""The command: the main job on the real network, and one clear message for each wrong input."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from conformance.cli import main
from conformance.trace import Trace
from tests.conformance.conftest import run_here


def test_the_real_network_conforms_in_every_framework(conformance, tmp_path):
    report_file = tmp_path / "report.json"
    done = conformance("run", "--variant=v1.5", "--report", report_file)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(report_file.read_text())
    assert report["verdict"] == "conforms"
    compared = [c for c in report["comparisons"] if c["mode"] != "-"]
    seen = {(c["implementation"], c["precision"], c["mode"], c["input"]) for c in compared}
    inputs = {"float32": ("photograph",)}
    inputs["float64"] = (*inputs["float32"], "noise-224x224", "noise-65x97", "noise-64x96")
    assert seen == {
        (implementation, precision, mode, input)
        for implementation in ("torch", "flax", "keras")
        for precision in ("float64", "float32")
        for mode in ("inference", "train")
        for input in inputs[precision]
    }
    for precision, worst in (("float64", 1e-12), ("float32", 2e-4)):
        errors = [c["error"] for c in compared if c["precision"] == precision]
        assert 0 < max(errors) <= worst
    shapes = {name: input["shape"] for name, input in report["environment"]["inputs"]["v1.5"].items()}
    assert shapes["photograph"] == [1, 3, 224, 224]
    assert {shape[0] for shape in shapes.values()} == {1, 3}
    for worker, said in report["environment"]["workers"].items():
        assert said["in_force"]["convolution"] == worker.split()[1]
        assert all(said["versions"].values())


# Each fact by which variants differ is held against the oracle in tests/impls/test_models.py; these two differ most.
@pytest.mark.slow
@pytest.mark.parametrize("variant", ["tutorial", "keras"])
def test_the_other_variants_conform_in_float64(conformance, small_weights, variant, tmp_path):
    report = tmp_path / "report.json"
    done = conformance("run", "--weights", small_weights[variant], "--precision=float64", "--report", report)
    assert done.returncode == 0, done.stdout + done.stderr
    compared = json.loads(report.read_text())["comparisons"]
    assert {c["implementation"] for c in compared} == {"torch", "flax", "keras"}
    assert {c["variant"] for c in compared} == {variant}


def test_a_single_framework_is_compared_and_the_rest_is_said_to_be_left_out(conformance, small_weights):
    done = conformance(
        *("run", "--weights", small_weights["v1.5"], "--precision=float64"),
        without=("jax", "flax", "keras", "tensorflow"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    words = " ".join(done.stdout.split())
    assert "left out: flax is not installed (flax, jax missing; pip install 'resnet-parity[flax]')" in words
    assert "left out: keras is not installed (keras, tensorflow missing; pip install 'resnet-parity[keras]')" in words
    assert "conforms" in done.stdout


def test_an_implementation_asked_for_by_name_must_be_installed(conformance, small_weights):
    done = conformance(
        *("run", "--impl=torch", "--impl=flax", "--weights", small_weights["v1.5"], "--precision=float64"),
        without=("jax", "flax"),
    )
    assert done.returncode == 3
    assert "flax is not installed" in done.stdout
    assert "torch" in done.stdout


def test_ones_own_picture_takes_the_photographs_place_and_traces_are_kept_where_asked(small_weights, tmp_path):
    picture, other, report = tmp_path / "grey.png", tmp_path / "colour.jpg", tmp_path / "report.json"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 200), np.uint8)).save(picture)
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (100, 150, 3), np.uint8)).save(other)
    folder = tmp_path / "traces"
    done = run_here(
        *("run", "--impl=torch", "--weights", small_weights["v1.5"], "--precision=float64"),
        *("--images", picture, other, "--report", report, "--keep-traces", folder),
    )
    assert done.returncode == 0, done.stderr
    inputs = json.loads(report.read_text())["environment"]["inputs"]["v1.5"]
    assert {"grey.png", "colour.jpg"} < set(inputs)
    assert "photograph" not in inputs
    kept = Trace.load(folder / "cases" / "torch-float64" / "v1.5--grey.png--inference.safetensors")
    assert kept.arrays["logits"].shape == (1, 10)
    again = CliRunner().invoke(main, ["run", "--keep-traces", str(folder)])
    assert again.exit_code == 2
    assert "new or empty folder" in again.output


def test_a_flat_picture_is_no_false_alarm(small_weights, tmp_path):
    """Most of it is white: equal values round alike, and sums of them err far more than those of other pictures do."""
    picture, report = tmp_path / "disc.png", tmp_path / "report.json"
    pixels = np.full((224, 224, 3), 255, np.uint8)
    rows, columns = np.ogrid[:224, :224]
    pixels[(rows - 112) ** 2 + (columns - 112) ** 2 < 40**2] = (200, 30, 30)
    Image.fromarray(pixels).save(picture)
    sums = "--impl=sums=conformance.run.adapters.numpy:OneProduct"
    done = run_here("run", sums, "--weights", small_weights["v1.5"], "--images", picture, "--report", report)
    assert done.returncode == 0, done.stdout + done.stderr
    own = [c for c in json.loads(report.read_text())["comparisons"] if c["input"] == "disc.png" and c["error"]]
    assert max(c["error"] for c in own if c["precision"] == "float32") > 1e-4
    (stem,) = [c for c in own if (c["precision"], c["mode"], c["name"]) == ("float64", "train", "stem")]
    assert stem["limit"] == pytest.approx(2 * 112 * 112 * 2**-53, rel=1e-4)


@pytest.mark.parametrize("command", ["run", "check", "record", "compare"])
def test_weights_are_taken_by_an_address_as_it_is_written(command):
    """A path would turn hf:// into hf:/."""
    (option,) = [each for each in main.commands[command].params if each.name == "weights"]
    assert option.type("hf://timm/resnet50.a1_in1k") == "hf://timm/resnet50.a1_in1k"


def not_a_picture(folder: Path) -> Path:
    file = folder / "cat.jpg"
    file.write_text("meow")
    return file


def truncated(weights: Path, folder: Path) -> Path:
    file = folder / "cut.safetensors"
    file.write_bytes(weights.read_bytes()[:-1000])
    return file


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda w, f: ["--impl", "theano"], "there is no implementation 'theano'; there are torch, flax, keras"),
        (lambda w, f: ["--variant", "v2"], "there is no variant v2; the variants are tutorial, v1, v1.5, keras, flax"),
        (lambda w, f: ["--images", str(not_a_picture(f))], "cat.jpg"),
        (lambda w, f: ["--images", str(f / "none.jpg")], "none.jpg"),
        (lambda w, f: ["--weights", str(truncated(w["v1"], f))], "cut.safetensors"),
        (lambda w, f: ["--weights", str(f / "none.safetensors")], "none.safetensors"),
        (lambda w, f: ["--weights", "hf://resnet-50"], "hf://resnet-50: expected hf://organisation/name"),
        (lambda w, f: ["--weights", str(w["v1"]), "--variant", "v1.5"], "it holds variant v1"),
        (lambda w, f: ["--weights", str(w["v1"]), "--variant", "v1", "--variant", "v1.5"], "one variant"),
        (lambda w, f: ["--python", "flax"], "NAME=PATH"),
        (lambda w, f: ["--impl", "torch", "--python", "flax=/bin/python"], "which is not run"),
        (lambda w, f: ["--variant", "v1.5", "--report", str(f / "none" / "r.json")], "no folder"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(small_weights, tmp_path, arguments, message):
    result = CliRunner().invoke(main, ["run", *arguments(small_weights, tmp_path)])
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert "Traceback" not in result.output
    assert result.output.startswith("conformance: ")


def test_list_says_what_there_is():
    result = CliRunner().invoke(main, ["list"])
    assert result.exit_code == 0
    for word in ("torch", "flax", "keras", "torch-compiled", "tutorial", "v1.5", "photograph", "float64"):
        assert word in result.output


def test_what_is_not_installed_is_listed_with_the_command_that_installs_it(conformance):
    """With its bracket, which is no markup."""
    done = conformance("list", without=("keras", "tensorflow"))
    assert "keras       not installed (keras, tensorflow missing; pip install 'resnet-parity[keras]')" in done.stdout


@pytest.mark.parametrize(("command", "code"), [("run", 3), ("selftest", 3), ("false-alarms", 3)])
def test_a_command_that_can_run_nothing_says_what_to_install(conformance, command, code):
    done = conformance(command, "--impl=keras", without=("keras", "tensorflow"))
    assert done.returncode == code
    words = " ".join(done.stdout.split())
    assert "keras is not installed (keras, tensorflow missing; pip install 'resnet-parity[keras]')" in words


@pytest.mark.parametrize("command", ["run", "selftest", "false-alarms"])
def test_help_gives_each_exit_code_a_line(command):
    lines = CliRunner().invoke(main, [command, "--help"]).output.splitlines()
    codes = [line.strip().removeprefix("Exit code ")[:2] for line in lines if "0:" in line or line.startswith(" " * 12)]
    assert codes[:4] == ["0:", "1:", "2:", "3:"]
    assert not any("\\b" in line for line in lines)


def test_help_imports_no_framework_and_is_there_at_once():
    code = (
        "import sys; sys.argv = ['conformance', '--help']\n"
        "from conformance.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'jax', 'flax', 'tensorflow', 'keras', 'numpy'} & set(sys.modules)))"
    )
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - started
    assert done.stdout.endswith("[]\n")
    assert seconds < 3  # a sanity bound: the import list above is what keeps it fast
