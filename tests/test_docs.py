"""The pages: their commands exist, their examples run, their links lead somewhere, their tables are the code's."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from markdown_it import MarkdownIt

import conformance.cli
import weights_convert.cli
from conformance.compare.forward import judge_noise
from conformance.compare.noise import NoiseFloor, explain_error
from docs import tables
from impls.config import VARIANTS

ROOT = Path(__file__).parents[1]
PAGES = {str(page.relative_to(ROOT)): page.read_text() for page in [*tables.PAGES, ROOT / "CONTRIBUTING.md"]}
COMMANDS = {"conformance": conformance.cli.main, "weights-convert": weights_convert.cli.main}
FRAMEWORKS = ("torch", "flax", "keras")

NOT_RUN = {
    r"(make|pip) |\.venv/bin/": "sets up or tests the whole project",
    r"python ": "an example or a campaign, which has tests of its own",
    r"conformance (run|check|record|compare|selftest|false-alarms)": "runs the real network, or hundreds of small ones",
    r"conformance map": "looks at a model of the reader's",
    r"weights-convert verify": "runs the suite on the real network",
    r".*(hf|torchvision|keras)://": "needs a network",
}
"""How commands that are only parsed begin, and why they are not run."""


@dataclass(frozen=True)
class Example:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


BLOCKS = [
    Example(page, token.map[0] + 1, token.info, token.content)
    for page, text in PAGES.items()
    for token in MarkdownIt().parse(text)
    if token.type == "fence"
]


def examples(language):
    return [block for block in BLOCKS if block.language == language]


def commands(example):
    """The words of each command of a block: comments are left out, a backslash continues a line."""
    lines = example.text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def parse(words):
    """Parse a command line of one of the project's commands as click would, and run nothing.

    Raises:
        click.UsageError: If there is no such command or option, or a value is none that it takes.
    """
    context = click.Context(COMMANDS[words[0]], info_name=words[0])
    name, command, rest = context.command.resolve_command(context, words[1:])
    command.make_context(name, rest, parent=context)


def check_command(words):
    """Refuse a command that does not exist, or has no such option, target, extra, module or file."""
    program, *arguments = words
    if program in COMMANDS:
        parse(words)
    elif program == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in arguments if "=" not in word} <= set(targets), words
    elif program == "pip":
        (requirement,) = [word for word in arguments if word.startswith(".")]
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert set(re.findall(r"[\w-]+", requirement)) <= set(extras), words
    elif program.endswith("python") and arguments[0] == "-m":
        assert (ROOT / f"{arguments[1].replace('.', '/')}.py").exists() or arguments[1] == "pytest", words
    elif program.endswith("python"):
        assert (ROOT / arguments[0]).exists(), words
    else:
        assert words == [".venv/bin/pre-commit", "install"], words


SH = examples("sh")
PYTHON = examples("python")


@pytest.mark.parametrize("example", SH, ids=str)
def test_commands_exist_with_their_options(example):
    for words in commands(example):
        check_command(words)


@pytest.mark.parametrize(
    "words",
    [
        ["conformance", "rum"],
        ["conformance", "run", "--implementation", "torch"],
        ["conformance", "run", "--precision", "float16"],
        ["weights-convert", "convert", "resnet50.pth"],
        ["weights-convert", "convert", "a.pth", "b.pth", "--variant", "v2"],
        ["make", "conform"],
        ["pip", "install", ".[pytorch]"],
        ["python", "-m", "docs.table"],
        ["python", "examples/train.py"],
        ["resnet", "run"],
    ],
    ids=" ".join,
)
def test_a_command_that_does_not_exist_is_noticed(words):
    with pytest.raises((click.UsageError, AssertionError)):
        check_command(words)


def is_run(words):
    return not any(re.match(start, " ".join(words)) for start in NOT_RUN)


def test_each_reason_not_to_run_a_command_is_of_use():
    lines = [" ".join(words) for example in SH for words in commands(example)]
    assert [start for start in NOT_RUN if not any(re.match(start, line) for line in lines)] == []


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder that holds the files of the examples; the variants are small networks meanwhile."""
    from impls.numpy import initial_weights

    monkeypatch.chdir(tmp_path)
    for name, config in VARIANTS.items():
        monkeypatch.setitem(VARIANTS, name, replace(config, depths=(1, 1, 1, 1), width=8))
    weights = initial_weights("v1.5", seed=0)
    for name in ("resnet50.pth", "before.pth"):
        weights.to("torchvision").save(name)
    return tmp_path


@pytest.mark.parametrize("page", sorted({e.page for e in SH if any(map(is_run, commands(e)))}))
def test_commands_run(page, files):
    run_commands(page)


def run_commands(page):
    for words in [words for e in SH if e.page == page for words in commands(e) if is_run(words)]:
        result = CliRunner().invoke(COMMANDS[words[0]], words[1:])
        assert result.exit_code == 0, (words, result.output, result.exception)


def pairs():
    """Forward runs of faulty candidates, each with the block of text after it that shows what is printed.

    Those of training take 90 s; the words for such causes are held in tests/conformance/cases/test_training_cases.py.
    """
    return [
        (sh, text)
        for sh, text in pairwise(BLOCKS)
        if "conformance run" in sh.text and "--task" not in sh.text
        if text.language == "text" and "diverges (" in text.text
    ]


def wording(output):
    """A text without its numbers and line breaks; an error may be zero on one machine and not on another."""
    return re.sub(r"\d[\d.]*(e[-+]?\d+)?", "#", " ".join(output.split())).replace("model exactly", "model to #")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("shell", "shown"), pairs(), ids=lambda example: str(example))
def test_what_is_shown_is_what_is_printed(shell, shown):
    """The wording of the diagnosis; its numbers are those of one machine."""
    printed = ""
    for words in commands(shell):
        done = subprocess.run([sys.executable, "-m", "conformance.cli", *words[1:]], capture_output=True, text=True)
        assert done.returncode == 1, done.stderr[-2000:]
        printed += done.stdout
    for divergence in re.split(r"\n(?=\w+ diverges)", shown.text):
        assert wording(divergence) in wording(printed)


def test_the_errors_explained_are_worded_as_verdicts_are():
    shown, floor = " ".join(PAGES["docs/numerics.md"].split()), NoiseFloor(2.4e-6, 2.9e-6)
    assert explain_error(3.1e-6, floor, 8.1e-6, "noise") in shown
    assert judge_noise(1.2e-4, floor, 8.1e-6, 1000).reason in shown


BUGGY = """

class Buggy(MyAdapter):
    def build(self, config, weights):
        super().build(config, weights)
        self.model.layer3[0].bn2.eps = 1e-3
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_adapter_of_your_own_model_is_checked_and_diagnosed(tmp_path):
    (adapter,) = [block for block in PYTHON if "class MyAdapter" in block.text]
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "adapter.py").write_text(adapter.text + BUGGY)
    command = [sys.executable, "-m", "conformance.cli", "run", "--variant", "v1.5", "--precision", "float64"]
    command += ["--impl", "mine=my_package.adapter:MyAdapter", "buggy=my_package.adapter:Buggy"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1, done.stderr[-2000:]
    assert re.search(r"mine +│ +[\d.e-]+ ✓", done.stdout)
    assert "likely cause: `eps-keras` at stage3.0.bn2" in " ".join(done.stdout.split())
    assert "mine diverges" not in done.stdout


def batch(framework):
    """Two images in the framework's layout, and their labels."""
    import torch

    images, labels = np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32), np.array([3, 7])
    if framework == "torch":
        return torch.from_numpy(images), torch.from_numpy(labels)
    return images.transpose(0, 2, 3, 1), labels


def frameworks(example):
    """The framework of a Python block, and the others that it is said to hold for; none where it names none."""
    return re.findall(r"impls\.(torch|flax|keras)", example.text)


def python_runs():
    for page in dict.fromkeys(example.page for example in PYTHON):
        named = {name for example in PYTHON if example.page == page for name in frameworks(example)}
        for name in sorted(named or {"torch"}):
            yield pytest.param(page, name, marks=[pytest.mark.slow] if name != "torch" else [])


@pytest.mark.parametrize(("page", "framework"), list(python_runs()))
def test_python_runs(page, framework, files):
    """The Python blocks of a page in one framework, one after the other, after the commands that are run."""
    run_commands(page)
    for example in PYTHON:
        named = frameworks(example)
        if example.page == page and framework in (named or [framework]):
            text = example.text.replace(f"impls.{named[0]}", f"impls.{framework}", 1) if named else example.text
            names = dict(zip(("images", "labels"), batch(framework), strict=True))
            exec(compile(text, str(example), "exec"), names)


def anchors(text):
    """The anchors of a page's headings, as GitHub makes them."""
    tokens = MarkdownIt().parse(text)
    headings = [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def links(text):
    for token in MarkdownIt().parse(text):
        for child in token.children or []:
            if target := child.attrs.get("href") or child.attrs.get("src"):
                yield str(target)


def broken_links(page, text):
    broken = []
    for link in links(text):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    assert broken_links(page, PAGES[page]) == []


def test_a_broken_link_is_noticed():
    text = "[a](docs/none.md) [b](docs/glossary.md#none) [c](docs/glossary.md#weights) [d](#none) ![e](docs/none.svg)"
    assert broken_links("README.md", text) == ["docs/none.md", "docs/glossary.md#none", "#none", "docs/none.svg"]


def test_the_index_names_every_page():
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages == {link for link in links(PAGES["docs/README.md"]) if not link.startswith("..")}


@pytest.mark.parametrize("page", PAGES)
def test_tables_are_what_the_code_says(page):
    assert tables.updated(PAGES[page]) == PAGES[page], "run: python -m docs.tables"


def test_each_table_stands_in_one_place():
    assert sorted(re.findall(r"<!-- table: ([a-z-]+) -->", "".join(PAGES.values()))) == sorted(tables.TABLES)


def test_the_readme_is_short():
    assert len(PAGES["README.md"].splitlines()) <= 150
