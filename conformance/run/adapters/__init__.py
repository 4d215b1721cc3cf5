"""Adapters of the project's own networks: one small class per framework, so that a worker can run any of them."""
