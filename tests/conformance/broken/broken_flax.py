"""The Flax model with SAME padding on its stem."""

from conformance.run.adapters.flax import FlaxAdapter


class PaddingOfStem(FlaxAdapter):
    def build(self, config, weights):
        super().build(config, weights)
        self.model.conv1.padding = "SAME"
