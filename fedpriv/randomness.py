"""Random generators keyed by seed and purpose: the same key gives the same stream, whatever ran before."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["generator", "own_numbers"]


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


def own_numbers(seed: int, purpose: str, names: Sequence[str], sizes: Iterable[int]) -> NDArray[np.uint64]:
    """Return numbers for many names, each name's from a stream of its own: they do not depend on the others.

    Moving one generator from stream to stream takes a tenth of the time of making one for each name.

    Parameters
    ----------
    seed : int
        The user's seed, 0 or more.
    purpose : str
        What the numbers are for. Two purposes never share a stream.
    names : sequence of str
        Whose numbers they are.
    sizes : iterable of int
        How many each name gets.

    Returns
    -------
    ndarray of uint64, shape [sum of sizes]
        Name after name, of a Philox generator whose key is the hash of purpose and seed, and whose counter begins at
        the hash of the name.
    """
    key = np.frombuffer(hashlib.sha256(f"{purpose}/{seed}".encode()).digest()[:16], dtype="<u8")
    bits = np.random.Philox(key=key.astype(np.uint64))
    start = bits.state
    found: list[NDArray[np.uint64]] = [np.empty(0, dtype=np.uint64)]
    for name, size in zip(names, sizes, strict=True):
        # The lowest word counts: a name would need 2**64 numbers to reach another one's.
        start["state"]["counter"][1:] = np.frombuffer(hashlib.sha256(name.encode()).digest()[:24], dtype="<u8")
        bits.state = start
        found.append(bits.random_raw(int(size)))
    return np.concatenate(found)
