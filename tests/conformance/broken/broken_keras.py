"""The Keras model with Keras's default epsilon in its first norm."""

from conformance.run.adapters.keras import KerasAdapter


class DefaultEpsilon(KerasAdapter):
    def build(self, config, weights):
        super().build(config, weights)
        self.model.bn1.epsilon = 1e-3
