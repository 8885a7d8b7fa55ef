"""Random generators keyed by seed and purpose: the same key gives the same stream, whatever ran before."""

from __future__ import annotations

import hashlib

import numpy as np

__all__ = ["generator"]


def generator(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """Return the random generator of one purpose.

    Partitions, splits and synthetic data are public, so their seed may be public too. Noise and sampling
    coins do *not* come from here: they use the operating system's entropy (``fedpriv.privacy``).

    Parameters
    ----------
    seed : int
        The user's seed, 0 or more.
    purpose : str
        What the numbers are for. Two purposes never share a stream.
    *numbers : int
        Further key, such as the number of a task, 0 or more.

    Returns
    -------
    numpy.random.Generator
        A counter-based Philox generator [1]_, seeded by ``numpy.random.SeedSequence`` under the spawn key
        (purpose, numbers). It does not depend on the platform; NumPy may change what the distributions make
        of its bits between versions (its policy NEP 19), which a pinned partition in the tests would notice.

    References
    ----------
    .. [1] Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3. SC 2011.
    """
    key = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:16], "big")
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(key, *numbers))))
