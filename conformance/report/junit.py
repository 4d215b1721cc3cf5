"""Writes records as JUnit XML, which continuous integration shows as tests: one for each case of each candidate."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from conformance.report.brief import brief_text, only
from conformance.report.record import Record, write_text

NOT_IN_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 has no way to hold; the log of a crashed worker may."""


def write_junit(records: Sequence[Record], path: Path) -> None:
    """Write records, completely or not at all."""
    write_text(junit_text(records), path)


def junit_text(records: Sequence[Record]) -> str:
    """Lay out records as JUnit XML: a suite for each record, a test for each case, failure and omission."""
    root = Element("testsuites", name="conformance")
    for record in records:
        tests = [*case_tests(record), *failed_tests(record), *skipped_tests(record)]
        suite = SubElement(
            root,
            "testsuite",
            name=f"conformance {' '.join(record['plan']['variants'])}".strip(),
            tests=str(len(tests)),
            failures=str(sum(test.find("failure") is not None for test in tests)),
            errors=str(sum(test.find("error") is not None for test in tests)),
            skipped=str(sum(test.find("skipped") is not None for test in tests)),
            time=str(record["seconds"]),
        )
        suite.extend(tests)
    ElementTree.indent(root)
    return f"{ElementTree.tostring(root, encoding='unicode', xml_declaration=True)}\n"


def case_tests(record: Record) -> Iterator[Element]:
    """Make a test of each case of each candidate; the first array that exceeds its limit is the failure."""
    cases: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for comparison in record["comparisons"]:
        key = ("implementation", "variant", "precision", "task", "mode", "input")
        cases.setdefault(tuple(comparison[name] for name in key), []).append(comparison)
    explained = {(each["implementation"], each["variant"]) for each in record["first_divergences"]}
    for (candidate, variant, precision, task, mode, input), compared in cases.items():
        what = "parameters" if input == "-" else f"{task or 'forward'} {mode} {input}"
        test = make_test(f"{candidate}.{variant}.{precision}", what)
        failed = [comparison for comparison in compared if not comparison["passed"]]
        if failed:
            message = f"first at {failed[0]['name']}: {failed[0]['reason']}"
            lines = [f"{comparison['name']}: {comparison['reason']}" for comparison in failed[:5]]
            if (candidate, variant) in explained:
                lines.append(brief_text([only(record, candidate, variant)]))
            add(test, "failure", message, "\n".join(lines))
        yield test


def failed_tests(record: Record) -> Iterator[Element]:
    """Make a test of everything that could not run."""
    for failure in record["failures"]:
        name = " ".join(filter(None, [failure["precision"], failure["task"] or "run"]))
        test = make_test(failure["implementation"], name)
        add(test, "failure" if failure.get("layer") else "error", failure["reason"])
        yield test


def skipped_tests(record: Record) -> Iterator[Element]:
    """Make a test of everything that was left out with a reason."""
    for line in record["left_out"]:
        test = make_test("left out", line.partition(":")[0])
        add(test, "skipped", line)
        yield test


def make_test(classname: str, name: str) -> Element:
    """Make a test without an outcome, which is one that passed."""
    return Element("testcase", classname=clean(f"conformance.{classname}"), name=clean(name))


def add(test: Element, kind: str, message: str, text: str = "") -> None:
    """Give a test its outcome: "failure", "error" or "skipped"."""
    SubElement(test, kind, message=clean(message)).text = clean(text) or None


def clean(text: str) -> str:
    """Replace the characters that XML cannot hold."""
    return NOT_IN_XML.sub("\N{REPLACEMENT CHARACTER}", text)
