"""The NumPy network with one bug each: what these show does not depend on the framework, and NumPy starts at once."""

import numpy as np

from conformance.run.adapters.numpy import Oracle


class ReducedPrecision(Oracle):
    """float64 asked for, float32 computed, float64 claimed."""

    def build(self, config, weights):
        self.precision = "float32"
        super().build(config, weights)

    def record(self, images, train, layers):
        arrays = super().record(images, train, layers)
        return {name: array.astype("float64") for name, array in arrays.items()}

    def run_tapped(self, images, train, tap):
        statistics = super().run_tapped(images, train, lambda name, value: tap(name, value.astype("float64")))
        return {name: array.astype("float64") for name, array in statistics.items()}


class BiasedVariance(Oracle):
    """The running variance of the first norm without its correction: seen in the statistics alone."""

    def record(self, images, train, layers):
        arrays = dict(super().record(images, train, layers))
        if train:
            count = np.prod(arrays["stem"].shape) / arrays["stem"].shape[1] * 4
            arrays["bn1.running_var"] = arrays["bn1.running_var"] * (1 - 0.1 / count)
        return arrays


class ExtraParameter(Oracle):
    """A layer that nothing uses."""

    def parameters(self):
        return super().parameters() | {"conv9.weight": (1, 1, 1, 1)}
