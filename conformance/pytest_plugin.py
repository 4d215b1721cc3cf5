"""The pytest plugin: the fixture `check_conformance`, and the marker `conformance` with its options.

pytest loads it wherever this project is installed, and it imports nothing of the suite before a test asks for the
fixture.

Example:
    Say in a test what a model of yours conforms to::

        @pytest.mark.conformance(variant="v1.5", precisions=["float64"])
        def test_my_port(check_conformance):
            check_conformance("my_port:build")
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conformance.checking import Report

MARKER = "conformance"


def pytest_configure(config: pytest.Config) -> None:
    """Describe the marker."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(variant=None, precisions=(), tasks=('forward',), **options): what `check_conformance` holds models "
        "against; the options are those of conformance.check, and those of a test add to those of its class and module",
    )


@pytest.fixture
def check_conformance(request: pytest.FixtureRequest) -> Callable[..., Report]:
    """Check models as `conformance.check` does; the test fails unless everything that is asked for conforms.

    Models and options are those of `conformance.check`. The marker `conformance` gives options beforehand; those of the
    call come first. The report is returned.
    """
    markers = [*request.node.iter_markers(MARKER)]
    if wrong := [marker for marker in markers if marker.args]:
        raise pytest.UsageError(
            f"@pytest.mark.{MARKER} takes its options by name, as in variant='v1.5', and not {wrong[0].args!r}"
        )
    usual: dict[str, Any] = {}
    for marker in reversed(markers):  # those of the module, then of the class, then of the test
        usual |= marker.kwargs

    def check(*models: Any, **options: Any) -> Report:
        __tracebackhide__ = True
        import conformance
        from conformance.report.brief import brief_text

        if not models:
            raise pytest.UsageError("check_conformance() was given no model")
        report = conformance.check(*models, **(usual | options))
        if not report.conforms:
            pytest.fail(brief_text(report.records), pytrace=False)
        return report

    return check
