"""Ports of the PyTorch model with one bug each, made through the framework's own structures."""

from conformance.run.adapters.torch import TorchAdapter


class PaddingOfStage3(TorchAdapter):
    """SAME padding on the strided 3x3 of stage 3, in a network that pads symmetrically."""

    def build(self, config, weights):
        super().build(config, weights)
        layer = self.model.stage3[0].conv2
        layer.same, layer.padding = True, (0, 0)


class StrideOfStage2(TorchAdapter):
    """Stride on the first 1x1, in a network that has it on the 3x3."""

    def build(self, config, weights):
        super().build(config, weights)
        block = self.model.stage2[0]
        block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)


class EpsilonOfStage4(TorchAdapter):
    """eps 1.001e-5 for 1e-5 in one norm."""

    def build(self, config, weights):
        super().build(config, weights)
        self.model.stage4[0].bn2.eps = 1.001e-5


class SwappedKernels(TorchAdapter):
    """Two kernels of one shape have changed places."""

    def build(self, config, weights):
        super().build(config, weights)
        first, second = self.model.stage1[1].conv3.weight, self.model.stage1[0].conv3.weight
        first.data, second.data = second.data, first.data
