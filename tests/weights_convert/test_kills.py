"""A process that is killed while it writes leaves the old file or the new one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.weights_convert import kills
from weights_convert import Checkpoint

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
KILLS = os.environ.get("KILLS", "18")
"""The number of processes to kill, from the environment."""


def test_a_killed_write_leaves_the_old_or_the_new():
    endings = [word for ending in kills.DIALECTS for word in ("--ending", ending)]
    command = [sys.executable, "-m", "tests.weights_convert.kills", "--kills", KILLS, *endings]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = [int(line.split()[1]) for line in done.stdout.splitlines()]
    assert sum(counts) == int(KILLS)


class TestFailures:
    """The check of what a killed process leaves, on folders made by hand."""

    @pytest.mark.parametrize(
        ("name", "content", "failure"),
        [
            ("0.msgpack", b"half of it", "holds neither the old nor the new"),
            (".0123abcd.partial.h5", b"", "was left behind"),
        ],
    )
    def test_other_files_are_failures(self, name: str, content: bytes, failure: str, tmp_path: Path):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(AssertionError, match=failure):
            assert [*kills.failures(tmp_path, ".msgpack")] == []

    def test_another_network_is_a_failure(self, checkpoint_of: Callable[..., Checkpoint], tmp_path: Path):
        checkpoint_of(dialect="flax", seed=9).save(tmp_path / "0.msgpack")
        with pytest.raises(AssertionError, match="holds neither the old nor the new"):
            assert [*kills.failures(tmp_path, ".msgpack")] == []

    def test_the_new_file_and_a_partial_one_are_none(self, tmp_path: Path):
        kills.pair_of(".msgpack")[1].save(tmp_path / "0.msgpack")
        (tmp_path / ".0123abcd.partial").write_bytes(b"half of it")
        assert [*kills.failures(tmp_path, ".msgpack")] == []
