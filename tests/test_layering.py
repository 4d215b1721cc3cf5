"""Who may know whom: the framework-free packages run without any framework, each implementation with its own alone."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FRAMEWORKS = ("torch", "torchvision", "jax", "jaxlib", "flax", "optax", "orbax", "keras", "tensorflow", "onnx")

BLOCKER = """
import importlib, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
"""


def run(code, blocked):
    """Run code in a fresh process where some packages cannot be imported."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    code = BLOCKER.replace("BLOCKED", repr(set(blocked))) + code
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def framework_free_modules():
    """Every module but those in a folder, or of a name, that is a framework's."""
    paths = [path for package in ("impls", "weights_convert", "conformance") for path in files(package)]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths]
    return [name for name in names if not set(name.split(".")) & {*FRAMEWORKS, "__main__"}]


def test_what_is_not_named_after_a_framework_imports_none():
    modules = framework_free_modules()
    assert {"impls.config", "impls.numpy.resnet", "weights_convert", "weights_convert.cli", "conformance.cli"} <= set(
        modules
    )
    done = run(f"[importlib.import_module(name) for name in {modules}]", FRAMEWORKS)
    assert done.returncode == 0, done.stderr


OWN = {
    "impls.torch": {"torch"},
    "impls.flax": {"flax", "jax", "jaxlib", "optax", "orbax"},
    "impls.keras": {"keras", "tensorflow"},
}


@pytest.fixture(scope="module")
def with_its_own_alone():
    """Each implementation imported where its own framework is the only one, all at once."""
    with ThreadPoolExecutor() as pool:
        runs = {
            package: pool.submit(run, f"importlib.import_module({package!r})", set(FRAMEWORKS) - own)
            for package, own in OWN.items()
        }
    return {package: running.result() for package, running in runs.items()}


@pytest.mark.parametrize("package", OWN)
def test_an_implementation_imports_its_own_framework_alone(with_its_own_alone, package):
    assert with_its_own_alone[package].returncode == 0, with_its_own_alone[package].stderr
    assert "is blocked" in run(f"importlib.import_module({package!r})", FRAMEWORKS).stderr


def test_the_blocker_blocks():
    assert "torch is blocked" in run("import torch", FRAMEWORKS).stderr


def imports(path):
    """The modules that a file names in any import statement, wherever it stands."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def files(package):
    found = sorted((ROOT / package).rglob("*.py"))
    assert found
    return found


def packages(path):
    return {name.partition(".")[0] for name in imports(path)}


def test_implementations_do_not_know_conformance():
    assert [path for path in files("impls") if "conformance" in packages(path)] == []


def test_the_facts_know_nothing_of_the_project():
    for name in ("config.py", "taps.py"):
        assert packages(ROOT / "impls" / name) <= set(sys.stdlib_module_names)


def test_weights_convert_knows_of_the_implementations_the_facts_alone():
    known = {name for path in files("weights_convert") for name in imports(path) if name.startswith("impls")}
    assert {".".join(name.split(".")[:2]) for name in known} == {"impls.config"}
    assert [path for path in files("weights_convert") if "conformance" in packages(path)] == []


@pytest.mark.parametrize("framework", ["numpy", "torch", "flax", "keras"])
def test_an_implementation_names_no_other_framework_and_no_other_implementation(framework):
    own = {"torch": {"torch"}, "flax": {"flax", "jax"}, "keras": {"keras"}, "numpy": set()}[framework]
    for path in files(f"impls/{framework}"):
        assert packages(path) & set(FRAMEWORKS) <= own, path
        others = {name for name in imports(path) if name.startswith("impls.")}
        assert {name.split(".")[1] for name in others} <= {framework, "config", "taps", "paths"}, path


def test_conformance_names_implementations_in_its_adapters_alone():
    for path in files("conformance"):
        named = {name.split(".")[1] for name in imports(path) if name.startswith("impls.")}
        if "adapters" not in path.parts:
            assert named <= {"config", "taps", "paths", "numpy"}, path
            assert not packages(path) & set(FRAMEWORKS), path


def test_no_package_directory_is_on_the_path():
    inside = {ROOT / "impls", ROOT / "weights_convert", ROOT / "conformance"} | set((ROOT / "tests").rglob("*"))
    assert [entry for entry in sys.path if entry and Path(entry).resolve() in inside] == []
