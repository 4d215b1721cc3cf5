"""The NumPy network trained with one bug each: those that no inference-mode check sees."""

from dataclasses import replace
from types import MappingProxyType

import numpy as np

from conformance.adapters.numpy import Oracle
from impls.numpy import Training, read_training, resnet
from impls.recipe import Recipe


class AnotherRecipe(Oracle):
    """The recipe with some facts changed."""

    changes = MappingProxyType({})

    def training(self, recipe):
        return super().training(replace(recipe, **self.changes))


class AdamEpsilon(AnotherRecipe):
    changes = MappingProxyType({"eps": 1e-7})


class DecayOnNorms(AnotherRecipe):
    changes = MappingProxyType({"decayed": "all"})


class NoClipping(AnotherRecipe):
    changes = MappingProxyType({"clip_norm": None})


class NoNesterov(AnotherRecipe):
    changes = MappingProxyType({"nesterov": False})


class WarmUpFromZero(Oracle):
    """The first of the warm-up's steps has no rate at all."""

    def training(self, recipe):
        return super().training(FromZero(**vars(recipe)))


class FromZero(Recipe):
    def factor(self, step):
        return step / self.warmup_steps if step < self.warmup_steps else super().factor(step)


class AnotherTraining(Oracle):
    """Another optimizer under the same recipe."""

    kind = Training

    def training(self, recipe):
        run = self.kind(resnet(*self.built_from).astype(self.dtype), recipe)
        return lambda images, labels: run.step(images.astype(self.dtype), labels), lambda: read_training(run)


class Decoupled(Training):
    def _sgd(self, name, gradient, weight, decay):
        return super()._sgd(name, gradient, weight, 0.0) + decay * weight


class DecoupledDecay(AnotherTraining):
    kind = Decoupled


class InVelocity(Training):
    def _sgd(self, name, gradient, weight, decay):
        rate = self.recipe.rate(self.steps - 1)
        return super()._sgd(name, rate * gradient, weight, rate * decay) / rate


class RateInVelocity(AnotherTraining):
    kind = InVelocity


class SummedLoss(Oracle):
    """Summed over the batch, not averaged."""

    def gradients(self, images, labels, recipe, train):
        value, found = super().gradients(images, labels, recipe, train)
        return value * len(images), {name: gradient * len(images) for name, gradient in found.items()}


class FrozenNorms(Oracle):
    """Norms in inference mode while training."""

    def gradients(self, images, labels, recipe, train):
        return super().gradients(images, labels, recipe, False)


class BiasedVariance(Oracle):
    """The running variance without its correction."""

    def training(self, recipe):
        config, weights = self.built_from
        self.built_from = replace(config, norm_variance="biased"), weights
        return super().training(recipe)


class LostGradient(Oracle):
    """One array is not trained."""

    def gradients(self, images, labels, recipe, train):
        value, found = super().gradients(images, labels, recipe, train)
        return value, found | {"stage2.0.downsample_bn.bias": np.zeros_like(found["stage2.0.downsample_bn.bias"])}
