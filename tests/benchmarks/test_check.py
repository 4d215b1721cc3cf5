"""The benchmark of `conformance check` measures processor time, and fails where a check adds too much."""

from __future__ import annotations

import sys

import pytest

from benchmarks import check


def test_the_processor_time_of_a_process_is_measured_and_not_its_waiting():
    assert check.seconds_of([sys.executable, "-c", "import time; time.sleep(0.3)"], {}) < 0.3
    assert check.seconds_of([sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass"], {}) >= 0.3


@pytest.mark.parametrize(("share", "fails"), [(0.36, False), (0.51, True)])
def test_more_than_the_limit_fails(monkeypatch, capsys, share, fails):
    monkeypatch.setattr(sys, "argv", ["check", "--runs", "1"])
    monkeypatch.setattr(check, "measure", lambda: {"bare candidate": 10.0, "added": 10 * share, "share": share})
    if fails:
        with pytest.raises(SystemExit, match="a check may add 50% of the bare candidate at most"):
            check.main()
    else:
        check.main()
    assert f"{share:.0%}" in capsys.readouterr().out
