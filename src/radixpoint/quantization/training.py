"""How a network is retrained, in numbers."""

from __future__ import annotations

import math

import msgspec

from radixpoint.errors import DesignError

_WARM = 0.05
"""Share of the steps in which the rate grows from zero."""


def paced(done: int, whole: int) -> float:
    """Share of the rate after so many of all steps: it grows, then falls to 0 along half a cosine."""
    return min(1.0, (done + 1) / (_WARM * whole)) * (1 + math.cos(math.pi * done / whole)) / 2


class Training(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a network is retrained; see ``radixpoint.quantization.retrain``.

    Attributes:
        epochs: how often every image is seen.
        rate: how far one step moves a number at most, about, as a share of the root mean square of its
            tensor; it grows over the first twentieth of the steps, then falls to 0 along half a cosine.
        batch: images in a step.
        mirror: whether half of the images are mirrored, left to right; not for digits and letters.
        shift: most pixels by which an image is moved, each way; what comes in repeats the edge.
        labels: share of the loss that comes from the labels, from 0 (the float network alone teaches) to 1.
        seed: of the order of the images, and of how they are mirrored and moved.
    """

    epochs: int = 30
    rate: float = 0.003
    batch: int = 64
    mirror: bool = False
    shift: int = 0
    labels: float = 0.0
    seed: int = 0

    def check(self) -> None:
        """Check that it can be meant.

        Raises:
            DesignError: one number cannot.
        """
        for name, least in {"epochs": 1, "batch": 1, "shift": 0, "seed": 0}.items():
            if getattr(self, name) < least:
                raise DesignError(f"{name} {getattr(self, name)}: expected at least {least}")
        if not (math.isfinite(self.rate) and self.rate > 0):
            raise DesignError(f"rate {self.rate}: expected a positive number, such as 0.003")
        if not 0 <= self.labels <= 1:
            raise DesignError(f"labels {self.labels}: expected a share from 0 to 1")
