"""Images as models have them: channels first, channels last, or one row without an axis of its own."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from radixpoint.ir.ops import Shape


def channels_first(images: NDArray[Any], shape: Shape) -> NDArray[Any]:
    """Images (batch first) in the network's own layout; what is in none of the known ones stays as it is.

    Args:
        images: (batch, channels, height, width); or channels last; or (batch, channels, length) for one row.
        shape: of the network's input. A shape that fits both layouts is channels first.
    """
    if images.shape[1:] == shape or len(shape) != 3:
        return images
    channels, height, width = shape
    if height == 1 and images.shape[1:] == (channels, width):
        return images[:, :, None]
    if height == 1 and images.shape[1:] == (width, channels):
        return images.swapaxes(1, 2)[:, :, None]
    if images.shape[1:] == (height, width, channels):
        return images.transpose(0, 3, 1, 2)
    return images
