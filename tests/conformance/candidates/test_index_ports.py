"""Two ports of others, from the package index, are mapped and checked as they are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder in which a release of a port is installed, without what it depends on, which is here."""

    def install(requirement):
        folder = tmp_path_factory.mktemp("packages")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--target", folder]
        done = subprocess.run([*command, requirement], capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            pytest.skip(f"{requirement} cannot be installed: {done.stderr.strip().splitlines()[-1]}")
        return folder

    return install


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("requirement", "target", "compared"),
    [
        ("pytorchcv==0.0.74", "port=pytorchcv.model_provider:get_model('resnet50b')", 145),
        ("torch-resnet==0.0.4", "port=torch_resnet:ResNet50", 143),
    ],
    ids=["pytorchcv", "torch-resnet"],
)
def test_a_port_conforms_under_the_names_that_are_proposed(installed, requirement, target, compared, tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(installed(requirement))])}

    def conformance(*arguments):
        command = [sys.executable, "-m", "conformance.cli", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)

    names = tmp_path / "names.toml"
    mapped = conformance("map", target, "--out", names)
    assert mapped.returncode == 0, mapped.stdout + mapped.stderr
    options = ("--variant=v1.5", "--precision=float64", "--inference", "--size=224")
    checked = conformance("check", target, "--names", names, *options)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"conforms: {compared} of {compared} comparisons passed" in checked.stdout
