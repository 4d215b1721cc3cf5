"""Compares traces with the oracle's by the table of limits: a verdict and its reason for every array."""
