"""Reading on trial: a reader that crashes, stalls or takes memory ends only its own process, with one clear error."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from weights_convert import ConversionError, containers
from weights_convert.containers import trial


def reads(path: Path) -> None:
    assert path.is_file()


def refuses(path: Path) -> None:
    raise ConversionError(str(path), ["one thing", "another"], "Do this.")


def fails(path: Path) -> None:
    raise KeyError("of some library\nand more")


def crashes(path: Path) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def stalls(path: Path) -> None:
    while True:
        pass


def grows(path: Path) -> None:
    np.ones(2**28)


def ends(path: Path) -> None:
    os._exit(7)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "a.h5").write_bytes(b"some bytes")
    return tmp_path / "a.h5"


def test_a_file_that_can_be_read_passes(file: Path):
    trial.read_on_trial(__name__, "reads", file)


def test_a_refusal_arrives_with_all_problems_and_advice(file: Path):
    with pytest.raises(ConversionError) as raised:
        trial.read_on_trial(__name__, "refuses", file)
    assert raised.value.problems == ("one thing", "another")
    assert raised.value.advice == "Do this."


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("fails", "'of some library"),
        ("crashes", r"crashes \(SIGSEGV\)"),
        ("stalls", "reading it does not end within 1 s"),
        ("grows", "asks for more than [0-9,]+ bytes of memory"),
        ("ends", "the process that reads it on trial failed: no message"),
    ],
)
def test_each_failure_is_reported(function: str, message: str, file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trial, "MAX_SECONDS", 1)
    with pytest.raises(trial.TrialFailed, match=message):
        trial.read_on_trial(__name__, function, file)


def test_containers_are_read_on_trial_and_named_in_the_error(file: Path, monkeypatch: pytest.MonkeyPatch):
    def crash(module: str, function: str, path: Path, packages: object) -> None:
        raise trial.TrialFailed("the library that reads it crashes (SIGSEGV)")

    monkeypatch.setattr(containers, "read_on_trial", crash)
    file.write_bytes(containers.HDF5)
    with pytest.raises(ConversionError, match="not a complete Keras HDF5 file: the library that reads it crashes"):
        containers.read(file)
