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


def files(package):
    found = sorted((ROOT / package).rglob("*.py"))
    assert found
    return found


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


FACTS = ("impls.config", "impls.recipe", "impls.taps", "impls.paths")
"""Facts of the models, which everything may import."""

MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "impls": (),
    "impls.config": (),
    "impls.recipe": (),
    "impls.taps": (),
    "impls.paths": (),
    "impls.numpy": (*FACTS, "weights_convert"),
    "impls.torch": (*FACTS, "weights_convert"),
    "impls.flax": (*FACTS, "weights_convert"),
    "impls.keras": (*FACTS, "weights_convert"),
    "weights_convert": ("impls.config", "impls.recipe", "impls.paths"),
    "conformance": (),
    "conformance.cases.case": (),
    "conformance.cases": ("conformance.trace", "impls.numpy"),
    "conformance.trace": ("conformance.cases.case",),
    "conformance.run": ("conformance.cases", "conformance.trace", "impls.numpy"),
    "conformance.run.adapters.torch": ("conformance.run", "conformance.cases", "conformance.trace", "impls.torch"),
    "conformance.run.adapters.flax": ("conformance.run", "conformance.cases", "conformance.trace", "impls.flax"),
    "conformance.run.adapters.keras": ("conformance.run", "conformance.cases", "conformance.trace", "impls.keras"),
    "conformance.run.candidates.torch": ("conformance.run", "conformance.cases", "impls.torch"),
    "conformance.run.candidates.flax": ("conformance.run", "conformance.cases", "impls.flax"),
    "conformance.run.candidates.keras": ("conformance.run", "conformance.cases", "impls.keras"),
    "conformance.compare": ("conformance.cases", "conformance.trace", "impls.numpy"),
    "conformance.faults": ("conformance.cases", "impls.numpy"),
    "conformance.oracle": ("conformance.faults", "conformance.cases", "impls.numpy"),
    "conformance.diagnose": (
        "conformance.oracle",
        "conformance.faults",
        "conformance.compare",
        "conformance.cases",
        "conformance.trace",
        "impls.numpy",
    ),
    "conformance.identify": (
        "conformance.oracle",
        "conformance.faults",
        "conformance.compare",
        "conformance.cases",
        "impls.numpy",
    ),
    "conformance.plan": ("conformance.run", "conformance.cases", "conformance.trace"),
    "conformance.probing": (
        "conformance.identify",
        "conformance.plan",
        "conformance.run.implementations",
        "conformance.cases",
        "conformance.trace",
    ),
    "conformance.outcome": (
        "conformance.compare",
        "conformance.diagnose",
        "conformance.identify",
        "conformance.cases",
        "conformance.trace",
    ),
    "conformance.localise": (
        "conformance.contradictions",
        "conformance.probing",
        "conformance.identify",
        "conformance.outcome",
        "conformance.plan",
        "conformance.run.implementations",
        "conformance.plan",
        "conformance.run",
        "conformance.diagnose",
        "conformance.oracle",
        "conformance.compare",
        "conformance.cases",
        "conformance.trace",
    ),
    "conformance.contradictions": (
        "conformance.outcome",
        "conformance.plan",
        "conformance.run.implementations",
        "conformance.oracle",
        "conformance.compare",
        "conformance.cases",
        "conformance.trace",
    ),
    "conformance.report": ("conformance.outcome", "conformance.plan", "conformance.compare", "conformance.cases"),
    "conformance.suite": (
        "conformance.contradictions",
        "conformance.localise",
        "conformance.outcome",
        "conformance.plan",
        "conformance.run",
        "conformance.compare",
        "conformance.cases",
        "conformance.trace",
    ),
    "conformance.selftest": ("conformance",),
    "conformance.surveying": ("conformance",),
    "conformance.checking": ("conformance",),
    "conformance.tracing": ("conformance",),
    "conformance.pytest_plugin": ("conformance",),
    "conformance.options": ("conformance.plan", "conformance.run.implementations", "conformance.cases"),
    "conformance.cli": ("conformance",),
}
"""By module or package, what it may import of this project beside itself and `OPEN`; the most specific row counts."""

OPEN = {"conformance": (*FACTS, "weights_convert")}
"""What all modules of a package may import."""


def module_name(path, root):
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def import_statements(tree):
    """Every import of a file wherever it stands, but those under `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        yield from import_statements(node)


def named_imports(node, known):
    """What a statement imports, as modules where they are known: `from a import b` is a.b if that is a module."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert node.level == 0, f"line {node.lineno}: imports are absolute"
    names = [f"{node.module}.{alias.name}" for alias in node.names]
    return [name if name in known else node.module for name in names]


def import_graph(root, packages=("impls", "weights_convert", "conformance")):
    """By module of the packages under a folder, every module that it imports, ours and others'."""
    paths = {module_name(path, root): path for package in packages for path in (root / package).rglob("*.py")}
    trees = {name: ast.parse(path.read_text()) for name, path in paths.items()}
    return {
        name: {found for node in import_statements(tree) for found in named_imports(node, paths)}
        for name, tree in trees.items()
    }


def starts_with(name, prefixes):
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def upward_imports(graph):
    """The imports that the table does not allow: pairs of a module and what it imports."""
    wrong = set()
    for name, imported in graph.items():
        row = max((prefix for prefix in MAY_IMPORT if starts_with(name, [prefix])), key=len)
        allowed = (row, *MAY_IMPORT[row], *OPEN.get(name.partition(".")[0], ()))
        ours = {target for target in imported if starts_with(target, ("impls", "weights_convert", "conformance"))}
        wrong |= {(name, target) for target in ours if not starts_with(target, allowed)}
    return wrong


def circles(graph):
    """Every group of modules that import each other, directly or through one another."""

    def reached(start):
        seen, waiting = set(), [start]
        while waiting:
            for target in graph.get(waiting.pop(), ()):
                if target not in seen:
                    seen.add(target)
                    waiting.append(target)
        return seen

    reach = {name: reached(name) for name in graph}
    circular = [name for name in graph if name in reach[name]]
    return {frozenset(n for n in circular if n in reach[name] and name in reach[n]) for name in circular}


@pytest.fixture(scope="module")
def graph():
    found = import_graph(ROOT)
    assert len(found) > 80
    assert found.keys() >= {"impls.numpy.resnet", "weights_convert.table", "conformance.cli"}
    return found


def test_nobody_imports_upwards(graph):
    assert upward_imports(graph) == set()


def test_no_modules_import_each_other(graph):
    assert circles(graph) == set()


def test_each_row_of_the_table_is_of_a_module_that_there_is(graph):
    named = set(MAY_IMPORT) | {prefix for row in MAY_IMPORT.values() for prefix in row}
    assert named <= graph.keys()


PLANTED = {
    "an upward import": ("conformance/compare/limits.py", "from conformance.run import jobs"),
    "an upward import in a function": ("conformance/cases/case.py", "def f():\n    import conformance.suite"),
    "another implementation": ("impls/torch/resnet.py", "from impls.flax import resnet"),
    "the suite from a model": ("impls/numpy/state.py", "from conformance import trace"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_an_import_that_is_planted_is_found(name, tmp_path):
    file, line = PLANTED[name]
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(f"from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import conformance.cli\n{line}\n")
    ((importer, imported),) = upward_imports(import_graph(tmp_path))
    assert importer == file.removesuffix(".py").replace("/", ".")
    assert imported in line.replace(" import ", ".").replace("from ", "") or imported in line


def test_a_circle_that_is_planted_is_found(tmp_path):
    folder = tmp_path / "impls"
    folder.mkdir()
    (folder / "first.py").write_text("from impls import second")
    (folder / "second.py").write_text("def f():\n    from impls.third import g")
    (folder / "third.py").write_text("import impls.first\nfrom typing import TYPE_CHECKING\n")
    (folder / "outside.py").write_text("import impls.first")
    assert circles(import_graph(tmp_path)) == {frozenset({"impls.first", "impls.second", "impls.third"})}
    (folder / "third.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import impls.first\n")
    assert circles(import_graph(tmp_path)) == set()


NAMED_FRAMEWORKS = OWN | {
    "impls.numpy": set(),
    "conformance.run.adapters.torch": {"torch"},
    "conformance.run.candidates.torch": {"torch"},
    "conformance.run.candidates.flax": {"flax", "jax"},
    "conformance.run.candidates.keras": {"keras"},
    "conformance.run.candidates.files.torch": {"torch"},
    "conformance.run.candidates.files.keras": {"keras"},
    "conformance.run.candidates.files.onnx": {"onnx"},
    "conformance.run.candidates.files.tensorflow": {"tensorflow"},
    "conformance.tracing.watchers.torch": {"torch"},
    "conformance.tracing.watchers.flax": {"flax"},
    "conformance.run.adapters.flax": {"flax", "jax"},
    "conformance.run.adapters.keras": {"keras", "tensorflow", "jax", "torch"},  # Keras runs on each of the three
}
"""The frameworks that a module or package may name; all others name none."""


def test_a_framework_is_named_where_it_belongs(graph):
    for name, imported in graph.items():
        own = [frameworks for prefix, frameworks in NAMED_FRAMEWORKS.items() if starts_with(name, [prefix])]
        assert {target.partition(".")[0] for target in imported} & set(FRAMEWORKS) <= set().union(*own), name


def test_no_function_has_the_name_of_a_sub_package():
    """Or `from conformance import run` would be one thing or the other, as imports happen to go."""
    folders = {path.parent.name for path in (ROOT / "conformance").glob("*/__init__.py")}
    for path in (ROOT / "conformance").glob("*.py"):
        functions = {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
        assert not functions & folders, path


LONGEST_MODULE, LONGEST_FUNCTION = 450, 60
"""Limits in lines of text, docstrings among them."""


def too_long(root, packages=("impls", "weights_convert", "conformance")):
    """The modules and functions of the packages that have more lines than the limits, and how many."""
    lengths = {}
    for path in (path for package in packages for path in (root / package).rglob("*.py")):
        name, text = module_name(path, root), path.read_text()
        lengths[name] = len(text.splitlines()), LONGEST_MODULE
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lengths[f"{name}:{node.lineno} {node.name}"] = node.end_lineno - node.lineno + 1, LONGEST_FUNCTION
    return {name: lines for name, (lines, limit) in lengths.items() if lines > limit}


def test_no_module_and_no_function_is_too_long():
    assert too_long(ROOT) == {}


def test_a_module_and_a_function_that_are_too_long_are_found(tmp_path):
    folder = tmp_path / "impls"
    folder.mkdir()
    function = "def f():\n" + "    pass\n" * (LONGEST_FUNCTION - 1)
    (folder / "longest.py").write_text("pass\n" * (LONGEST_MODULE - LONGEST_FUNCTION) + function)
    assert too_long(tmp_path) == {}
    (folder / "longer.py").write_text("pass\n" * LONGEST_MODULE + function + "    pass\n")
    lines = LONGEST_MODULE + LONGEST_FUNCTION + 1
    assert too_long(tmp_path) == {"impls.longer": lines, "impls.longer:451 f": LONGEST_FUNCTION + 1}


def test_no_package_directory_is_on_the_path():
    inside = {ROOT / "impls", ROOT / "weights_convert", ROOT / "conformance"} | set((ROOT / "tests").rglob("*"))
    assert [entry for entry in sys.path if entry and Path(entry).resolve() in inside] == []
