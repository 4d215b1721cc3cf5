"""Reporting: the outcome of a run on a screen and as JSON."""
