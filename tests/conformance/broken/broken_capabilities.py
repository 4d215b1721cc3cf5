"""Adapters that declare little, or declare what they do not have; NumPy underneath."""

from conformance.run.adapters.numpy import Oracle
from conformance.run.capabilities import Capability


class Least:
    """A correct candidate that can be recorded, and nothing else."""

    capabilities = frozenset()

    def __init__(self):
        self.inner = Oracle()

    def prepare(self, device, precision):
        return self.inner.prepare(device, precision)

    def build(self, config, weights):
        self.inner.build(config, weights)

    def parameters(self):
        return self.inner.parameters()

    def record(self, images, train, layers):
        return self.inner.record(images, train, layers)

    def gradients(self, *arguments):
        raise AssertionError("a method of a capability that is not declared was called")

    run_tapped = training = initial = switches = multiply = convolve = gradients


class Wrong(Least):
    """A candidate that can be recorded, and errs in one layer."""

    def build(self, config, weights):
        super().build(config, weights)
        self.inner.model.bn1.eps = 1e-3


class Overstated:
    """An adapter that declares more than it has."""

    capabilities = frozenset({Capability.TRAIN, Capability.TAP})

    def prepare(self, device, precision):
        return "cpu"

    def build(self, config, weights):
        raise NotImplementedError

    def run_tapped(self, images, train, tap):
        raise NotImplementedError


class Undeclared(Oracle):
    """An adapter without a declaration."""

    capabilities = None
