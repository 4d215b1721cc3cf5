"""Candidates that say they run on a GPU and compute as GPUs do, each in one way of its own; NumPy underneath."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from conformance.run.adapters.numpy import Arithmetic, OneProduct, Oracle
from impls.numpy.resnet import convolve, multiply


@dataclass(eq=False)
class Card(Oracle):
    """A correct candidate on a card."""

    def prepare(self, device, precision):
        super().prepare("cpu", precision)
        return "Simulated GPU"


def to_tf32(array):
    """Round to ten bits after the point, as a tensor core does with its operands."""
    bits = array.astype(np.float32).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32).astype(array.dtype)


@dataclass(eq=False)
class Tf32AfterTheProbe(Card):
    """Operands of every product are rounded to TF32, but not those of the worker's probe."""

    arithmetic: ClassVar[Arithmetic] = Arithmetic(
        convolve=lambda x, weight, stride: convolve(to_tf32(x), to_tf32(weight), stride),
        multiply=lambda x, weight: multiply(to_tf32(x), to_tf32(weight)),
    )


@dataclass(eq=False)
class Tf32(Tf32AfterTheProbe):
    """Operands of every product are rounded to TF32."""

    def multiply(self, left, right):
        return super().multiply(to_tf32(left), to_tf32(right))

    def convolve(self, images, kernel):
        return super().convolve(to_tf32(images), to_tf32(kernel))


INPUT = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
)
KERNEL = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
OUTPUT = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])


def convolve_by_winograd(x, weight, stride):
    """Convolve by F(4x4, 3x3) of Lavin and Gray 2015 (arXiv:1509.09308) where the kernel is 3x3 and the stride 1."""
    if weight.shape[2] != 3 or stride != 1:
        return convolve(x, weight, stride)
    height, width = x.shape[2] - 2, x.shape[3] - 2
    missing = [(-side) % 4 for side in (height, width)]
    x = np.pad(x, ((0, 0), (0, 0), (0, missing[0]), (0, missing[1])))
    transform = [matrix.astype(x.dtype) for matrix in (INPUT, KERNEL, OUTPUT)]
    tiles = np.lib.stride_tricks.sliding_window_view(x, (6, 6), (2, 3))[:, :, ::4, ::4]
    tiles = np.einsum("ai,nchwij,bj->abnhwc", transform[0], tiles, transform[0], optimize=True)
    kernel = np.einsum("ai,ocij,bj->abco", transform[1], weight, transform[1], optimize=True)
    products = tiles @ kernel[:, :, None, None]
    outputs = np.einsum("ia,abnhwo,jb->nohiwj", transform[2], products, transform[2], optimize=True)
    n, o, h, _, w, _ = outputs.shape
    return np.ascontiguousarray(outputs.reshape(n, o, h * 4, w * 4)[:, :, :height, :width])


@dataclass(eq=False)
class Winograd(Card):
    """3x3 convolutions by Winograd's method."""

    arithmetic: ClassVar[Arithmetic] = Arithmetic(convolve=convolve_by_winograd)


ORDERS = np.random.default_rng()


def convolve_in_some_order(x, weight, stride):
    """Sum the input channels in an order that no two calls share, as atomic additions do."""
    order = ORDERS.permutation(weight.shape[1])
    return convolve(x[:, order], weight[:, order], stride)


@dataclass(eq=False)
class AnyOrder(Card):
    """Sums are in another order each time."""

    arithmetic: ClassVar[Arithmetic] = Arithmetic(convolve=convolve_in_some_order)


@dataclass(eq=False)
class FallsBack(OneProduct):
    """A GPU is asked for, and the CPU is used, as JAX does with a warning."""

    def prepare(self, device, precision):
        return super().prepare("cpu", precision)
