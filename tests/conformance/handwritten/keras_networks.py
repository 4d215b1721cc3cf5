"""keras.applications' ResNet, of any depths or whole, as a candidate of the suite."""

from __future__ import annotations

import keras
import numpy as np
from keras.src.applications.resnet import ResNet, stack_residual_blocks_v1

from conformance.cases.names import activation_names
from conformance.run.adapters.canonical import canonical_arrays, channels_first, channels_last
from conformance.run.capabilities import Capability
from impls.taps import is_layer
from weights_convert import load
from weights_convert.dialects import find_dialect

DIALECT = find_dialect("keras.applications")
SIDES = (64, 96)
"""Height and width of the images: keras.applications asks for them where it makes a classifier."""


def network(config):
    """The network that keras.applications.ResNet50 makes, without its softmax, of other depths."""

    def stages(x):
        for number, depth in enumerate(config.depths):
            stride = 1 if number == 0 else 2
            x = stack_residual_blocks_v1(x, 64 * 2**number, depth, stride, name=f"conv{number + 2}")
        return x

    return ResNet(
        stages,
        preact=False,
        use_bias=True,
        weights=None,
        input_shape=(*SIDES, 3),
        classes=config.num_classes,
        classifier_activation=None,
    )


class KerasCandidate:
    """A network of keras.applications with an edit as a candidate.

    Args:
        edit: Changes the network, which has its weights, in place.
    """

    capabilities = frozenset({Capability.TAP})

    def __init__(self, edit=lambda net: None):
        self.edit = edit

    def prepare(self, device, precision):
        keras.config.set_floatx(precision)
        keras.utils.set_random_seed(0)
        self.dtype = precision
        return "cpu"

    def build(self, config, weights):
        self.config, self.images = config, lambda images: images
        self.net = network(config)
        variables = self.variables()
        for name, array in load(weights).to("keras.applications").arrays.items():
            variables[name].assign(array)
        self.images = self.edit(self.net) or self.images

    def variables(self):
        return {f"{layer.name}.{variable.name}": variable for layer in self.net.layers for variable in layer.variables}

    def arrays(self):
        named = {name: np.array(variable.numpy()) for name, variable in self.variables().items()}
        return canonical_arrays(named, "keras.applications")

    def parameters(self):
        return {name: array.shape for name, array in self.arrays().items()}

    def names(self):
        """Canonical names by layer."""
        names = {"pool1_pool": "stem", "avg_pool": "pool", "predictions": "logits"}
        for name in activation_names(self.config, layers=True):
            if is_layer(name):
                names[DIALECT.write_name(f"{name}.weight")[0].rpartition(".")[0]] = name
            elif name.startswith("stage"):
                stage, _, block = name.removeprefix("stage").partition(".")
                names[f"conv{int(stage) + 1}_block{int(block) + 1}_out"] = name
        return names

    def run_tapped(self, images, train, tap):
        names, before = self.names(), {name: np.array(v.numpy()) for name, v in self.variables().items()}

        def tapped(layer):
            def call(*arguments, **keywords):
                if isinstance(layer, keras.layers.BatchNormalization):
                    keywords["training"] = train
                value = layer(*arguments, **keywords)
                if layer.name not in names:
                    return value
                replacement = tap(names[layer.name], channels_first(np.array(value)))
                return value if replacement is None else keras.ops.convert_to_tensor(channels_last(replacement))

            return call

        x = keras.ops.convert_to_tensor(self.images(channels_last(images).astype(self.dtype)))
        try:
            self.net._run_through_graph([x], operation_fn=tapped)
            statistics = {name: array for name, array in self.arrays().items() if ".running_" in name}
        finally:
            for name, variable in self.variables().items():
                variable.assign(before[name])
        return statistics if train else {}

    def record(self, images, train, layers):
        activations = {}
        statistics = self.run_tapped(images, train, activations.__setitem__)
        return {name: array for name, array in activations.items() if layers or not is_layer(name)} | dict(statistics)
