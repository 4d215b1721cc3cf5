"""Candidates that are models as they are: a target is loaded, recognised and run without an adapter of its own."""
