"""Watches a PyTorch network through forward hooks, which copy at once what they see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from conformance.tracing.watchers import Store


@contextmanager
def watch(model: nn.Module, store: Store) -> Iterator[None]:
    """Store what every module returns, in the order in which they finish."""
    handles = [
        model.register_forward_pre_hook(
            lambda module, inputs, named: store("input", (*inputs, *named.values())), with_kwargs=True
        )
    ]
    for name, module in model.named_modules():
        handles.append(
            module.register_forward_hook(lambda module, inputs, output, name=name or "output": store(name, output))
        )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
