"""Comparing: traces in, verdicts out, by the table of limits."""
