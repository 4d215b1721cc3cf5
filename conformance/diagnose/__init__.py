"""Diagnosis: which fault explains a divergence."""
