"""Inputs and hyper-parameters that all contenders share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SIDE, CLASSES = 224, 1000
LEARNING_RATE, MOMENTUM = 1e-4, 0.9


@dataclass(frozen=True)
class Inputs:
    """A batch, the same for all contenders: images (batch, 3, 224, 224) and labels (batch,) as NumPy arrays."""

    images: Any
    labels: Any

    @classmethod
    def draw(cls, batch: int) -> Inputs:
        """Normal values and random classes."""
        import numpy as np

        random = np.random.default_rng(0)
        images = random.standard_normal((batch, 3, SIDE, SIDE), dtype=np.float32)
        return cls(images, random.integers(0, CLASSES, batch))

    @property
    def channels_last(self) -> Any:
        """The images as (batch, 224, 224, 3)."""
        import numpy as np

        return np.ascontiguousarray(self.images.transpose(0, 2, 3, 1))
