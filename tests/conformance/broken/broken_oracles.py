"""The NumPy network with one bug each: what these show does not depend on the framework, and NumPy starts at once."""

import numpy as np

from conformance.run.adapters.numpy import Oracle


class ReducedPrecision(Oracle):
    """float64 asked for, float32 computed, float64 claimed."""

    def build(self, config, weights):
        self.dtype = "float32"
        super().build(config, weights)

    def run(self, images, train, layers):
        found = super().run(images, train, layers)
        return {name: array.astype("float64") for name, array in found.items()}

    def stream(self, images, train, see):
        found = super().stream(images, train, lambda name, value: see(name, value.astype("float64")))
        return {name: array.astype("float64") for name, array in found.items()}


class BiasedVariance(Oracle):
    """The running variance of the first norm without its correction: seen in the statistics alone."""

    def run(self, images, train, layers):
        arrays = dict(super().run(images, train, layers))
        if train:
            count = np.prod(arrays["stem"].shape) / arrays["stem"].shape[1] * 4
            arrays["bn1.running_var"] = arrays["bn1.running_var"] * (1 - 0.1 / count)
        return arrays


class ExtraParameter(Oracle):
    """A layer that nothing uses."""

    def parameters(self):
        return super().parameters() | {"conv9.weight": (1, 1, 1, 1)}
