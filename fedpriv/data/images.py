"""Raw grey images to network inputs: scaled to [0, 1] with ink at 1, average-pooled if asked, one channel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["to_inputs"]


def to_inputs(images: NDArray[np.uint8], size: int, *, maximum: int = 255, invert: bool = False) -> NDArray[np.float32]:
    """Scale and pool square grey images.

    Parameters
    ----------
    images : ndarray of uint8, shape [N, S, S]
        Values from 0 to ``maximum``.
    size : int
        Side of the result; divides S. Every output pixel is the mean of (S / size)^2 input pixels, summed in
        whole numbers, so that the result does not depend on the order of summation.
    maximum : int
        The value that becomes 1.
    invert : bool
        Whether the paper is bright (``maximum``) and the ink dark: then paper becomes 0 and ink 1.

    Returns
    -------
    ndarray of float32, shape [N, 1, size, size], values in [0, 1]
    """
    count, side = images.shape[0], images.shape[-1]
    factor = side // size
    scale = np.float32(maximum * factor * factor)
    if factor == 1:
        inputs = images.astype(np.float32)
    else:
        # uint32 holds the largest possible sum (28 * 28 * 255) with room to spare.
        sums = np.zeros((count, size, size), dtype=np.uint32)
        for row in range(factor):
            for column in range(factor):
                sums += images[:, row::factor, column::factor]
        inputs = sums.astype(np.float32)
    if invert:
        np.subtract(scale, inputs, out=inputs)
    inputs /= scale
    return inputs.reshape(count, 1, size, size)
