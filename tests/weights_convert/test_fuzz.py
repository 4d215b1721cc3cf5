"""The campaign of damaged files, in short form, and its detection of every way in which a reader can be wrong."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from random import Random

import pytest

from tests.weights_convert import fuzz
from tests.weights_convert.fuzz_damages import DAMAGES, ODD_VALUES, Unfit
from tests.weights_convert.fuzz_originals import Original, make_originals
from weights_convert import ConversionError, load

pytestmark = pytest.mark.slow

QUICK = {"safetensors": 5.0, "msgpack": 5.0, "Keras HDF5": 0.3, "legacy Keras HDF5": 0.3}
"""Mostly containers that are quick to read; PyTorch and Orbax take seconds to import."""

BROKEN = "tests.weights_convert.broken_readers"


def test_damaged_files_are_refused_or_read_correctly(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fuzz, "MAX_SECONDS", 100.0)  # for a busy machine; a hang takes longer
    report = fuzz.run(seed=2, files=300, rows=QUICK)
    assert [(finding.original.name, finding.damage, finding.failure) for finding in report.findings] == []
    assert report.refused.total() + report.accepted.total() == 300
    assert min(report.refused[row] for row in QUICK) > 2
    assert min(report.accepted[row] for row in QUICK) > 0


@pytest.mark.parametrize(
    ("reader", "failure", "files"),
    [
        ("accepts_anything", "accepted wrongly", 10),
        ("flips_a_bit", "accepted wrongly: other bits", 30),
        ("refuses_everything", "refused wrongly: .*it is refused", 60),
        ("refuses_without_a_problem", "refused without a proper message", 2),
        ("raises_a_key_error", "raised KeyError", 2),
        ("prints", "printed: Traceback", 2),
        ("ends_the_process", "the process ended with code -11", 1),
        ("sleeps", "it took more than 0.5 s", 1),
        ("takes_memory", "took [0-9,]+ bytes", 2),
    ],
)
def test_the_campaign_detects_wrong_readers(reader: str, failure: str, files: int, monkeypatch: pytest.MonkeyPatch):
    if reader == "sleeps":  # any other reader may be slower than this on a busy machine
        monkeypatch.setattr(fuzz, "MAX_SECONDS", 0.5)
    report = fuzz.run(seed=1, files=files, rows={"msgpack": 1.0}, reader=f"{BROKEN}:{reader}")
    assert report.findings
    for finding in report.findings:
        with pytest.raises(AssertionError, match=failure):
            raise AssertionError(finding.failure)


class TestEarlierFindings:
    """Files that were once read wrongly, raised an error, or took too long; each is refused or read correctly now."""

    @pytest.mark.parametrize(
        ("container", "damage", "problem"),
        [
            ("msgpack", "msgpack: a name twice", "the name .* occurs twice"),
            ("msgpack", "msgpack: a name twice, by dots", "the name .* occurs twice"),
            ("msgpack", "msgpack: unknown length", r"an array of the shape \[-1"),
            ("safetensors", "safetensors: an array twice", "the name .* occurs twice"),
            ("legacy Keras HDF5", "HDF5: a name twice, in a list", "the name .* occurs twice"),
            ("Keras HDF5", "HDF5: odd floats", "floats of an unusual format"),
            ("Keras HDF5", "HDF5: deep groups", "nests groups deeper than 64"),
        ],
    )
    def test_a_damaged_structure(self, container: str, damage: str, problem: str, tmp_path: Path):
        change = next(row.change for row in DAMAGES if row.name == damage)
        original = next(original for original in originals_of(container) if fits(original, damage))
        (tmp_path / original.target).write_bytes(change(Random(1), original.files[""]))
        with pytest.raises(ConversionError, match=problem):
            load(tmp_path / original.target, **original.options)

    def test_a_flipped_bit_in_an_archive_of_pytorch(self, tmp_path: Path):
        original = originals_of("PyTorch")[0]
        content = bytearray(original.files[""])
        content[max(original.spans(bytes(content)).values())] ^= 1
        (tmp_path / "a.pth").write_bytes(content)
        with pytest.raises(ConversionError, match=r"its entry '.*/data/\d+' is damaged \(the checksum differs\)"):
            load(tmp_path / "a.pth", variant="v1.5")

    def test_numbers_in_the_other_byte_order(self, tmp_path: Path):
        change = next(row.change for row in DAMAGES if row.name == "HDF5: big-endian")
        original = next(item for item in originals_of("Keras HDF5") if fits(item, "HDF5: odd floats"))
        (tmp_path / "a.h5").write_bytes(change(Random(1), original.files[""]))
        checkpoint = load(tmp_path / "a.h5", variant="v1.5")
        assert fuzz.description(checkpoint) == original.facts

    @pytest.mark.parametrize(
        "lie",
        [{"config": "[" * 100_000}, {"config": '{"a":' * 100_000}]
        + [{"width": value} for value in ODD_VALUES]
        + [{"depths": value} for value in ([2.0, 1, 1, 1], [True] * 4, ["a"] * 4)],
        ids=lambda lie: f"{lie}"[:40],
    )
    def test_an_impossible_network(self, lie: dict[str, object], tmp_path: Path):
        original = originals_of("safetensors")[0]
        length = int.from_bytes(original.files[""][:8], "little")
        header = json.loads(original.files[""][8 : 8 + length])
        metadata = header["__metadata__"]
        config = json.dumps(json.loads(metadata["config"]) | lie)
        metadata["config"] = lie.get("config", config)
        changed = json.dumps(header).encode()
        (tmp_path / "a.safetensors").write_bytes(
            len(changed).to_bytes(8, "little") + changed + original.files[""][8 + length :]
        )
        with pytest.raises(ConversionError):
            load(tmp_path / "a.safetensors")


@cache
def originals_of(container: str) -> list[Original]:
    with tempfile.TemporaryDirectory() as folder:
        return make_originals(Path(folder), [container])


def fits(original: Original, damage: str) -> bool:
    """Return whether a bare file can be damaged in this way."""
    if original.row != "msgpack" and not original.name.startswith("bare"):
        return False
    try:
        return bool(next(row.change for row in DAMAGES if row.name == damage)(Random(1), original.files[""]))
    except Unfit:
        return False
