"""Where noise and sampling coins come from.

Both are secrets: whoever can guess them can undo the mechanism. They come from the operating system
(:class:`SystemEntropy`); :class:`ReproducibleEntropy` derives them from a seed for tests and evidence, and
what is trained with it carries no guarantee. No global generator is ever used.

The noise is a float64 Box-Muller transform of uniforms with 64 bits for the radius and 53 for the angle. Its tail ends
at 9.4 standard deviations. Like every floating-point Gaussian it is not proven exact; what is released is rounded to a
public grid, so that its low bits tell nothing (:mod:`fedpriv.privacy.rounding`).

Noise and coins never share a key: whoever reads all noise of all rounds but one learns nothing of the coins.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedpriv.errors import InputError
from fedpriv.privacy.coins import Coins

__all__ = ["Entropy", "ReproducibleEntropy", "RoundSecret", "SystemEntropy"]

_PAIRS = 1 << 16
"""Pairs of normals made at a time: 1 MB of keystream, so that temporaries stay inside the cache."""


class Entropy(ABC):
    """A source of secret randomness, asked by purpose, round and group: keystreams of ChaCha20, by a key for each."""

    reproducible: ClassVar[bool]
    """True if the same arguments give the same answer again (then there is no guarantee)."""

    @abstractmethod
    def _key(self, kind: str, purpose: str, round: int, group: str) -> bytes:
        """Return 256 bits."""

    def _key_of_coins(self, round: int, group: str) -> bytes:  # here, because "bytes" is a method from here on
        return self._key("coins", "coins", round, group)

    def bytes(self, purpose: str, round: int, count: int, group: str = "") -> bytes:
        """Return ``count`` random bytes."""
        if count < 0:
            raise InputError(f"entropy: 'count' must be at least 0 bytes, got {count}.")
        return bytes(_Keystream(self._key("bytes", purpose, round, group)).read(count))

    def normal(self, purpose: str, round: int, shape: int | Sequence[int], group: str = "") -> NDArray[np.float64]:
        """Return independent standard normals of this shape, float64, drawn in pieces of 1 MB."""
        sizes = (shape,) if isinstance(shape, int | np.integer) else tuple(int(size) for size in shape)
        if any(size < 0 for size in sizes):
            raise InputError(f"entropy: every size in 'shape' must be at least 0, got {sizes}.")
        out = np.empty(math.prod(sizes), dtype=np.float64)
        stream = _Keystream(self._key("normal", purpose, round, group))
        for start in range(0, out.size, 2 * _PAIRS):
            _fill_normal(out[start : start + 2 * _PAIRS], stream)
        return out.reshape(sizes)

    def coins(self, round: int, group: str = "") -> Coins:
        """Return the coins that decide who takes part, from a keystream of their own."""
        return Coins(_Keystream(self._key_of_coins(round, group)).read)


@dataclass(frozen=True)
class RoundSecret:
    """A secret that leads to those of later rounds and never back to those of earlier ones.

    Attributes
    ----------
    round : int
        The first round it is good for.
    secret : bytes
        256 bits.
    """

    round: int
    secret: bytes = field(repr=False)

    @classmethod
    def fresh(cls) -> RoundSecret:
        """Return a secret of the operating system for a run that begins."""
        return cls(1, os.urandom(32))

    def key(self, group: str) -> bytes:
        """Return the key of one group's coins in this round."""
        return hmac.digest(self.secret, json.dumps(["fedpriv coins 2", self.round, group]).encode(), "sha256")

    def at(self, round: int) -> RoundSecret:
        """Return the secret of a later round.

        Raises
        ------
        InputError
            The round is over: its secret was forgotten.
        """
        if round < self.round:
            raise InputError(f"entropy: the coins of round {round} are forgotten; those from {self.round} on are left.")
        secret = self.secret
        for _ in range(round - self.round):
            secret = hmac.digest(secret, b"fedpriv next round", "sha256")
        return RoundSecret(round, secret)


class SystemEntropy(Entropy):
    """Randomness of the operating system: every call draws a fresh 256-bit key, whatever its arguments.

    Coins are the exception if a run keeps a secret for them: a round that failed before anything was published is then
    drawn with the same participants when the run goes on. With fresh ones, a task whose data make a round fail would
    be missing from whatever gets published, which tells that it exists.

    Parameters
    ----------
    coins : RoundSecret or None
        A secret as private as the personal states; None draws coins afresh, too.
    """

    reproducible = False

    def __init__(self, coins: RoundSecret | None = None) -> None:
        self._coins = coins

    def __repr__(self) -> str:
        return "SystemEntropy()"

    def _key(self, kind: str, purpose: str, round: int, group: str) -> bytes:  # noqa: ARG002
        return os.urandom(32)

    def _key_of_coins(self, round: int, group: str) -> bytes:
        if self._coins is None:
            return os.urandom(32)
        self._coins = self._coins.at(round)  # rounds only go on: one step each, and earlier ones are forgotten here too
        return self._coins.key(group)


class ReproducibleEntropy(Entropy):
    """Randomness that depends on (seed, purpose, round, group) only, never on the order of the calls.

    Asking twice with the same purpose, round and group gives the same answer, so every use needs its own
    purpose.

    Parameters
    ----------
    seed : int
        At least 0, of any size.

    Raises
    ------
    InputError
        If the seed is negative or not a whole number.
    """

    reproducible = True

    def __init__(self, seed: int) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
            raise InputError(f"entropy: 'seed' must be a whole number of at least 0, got {seed!r}.")
        self.seed = int(seed)

    def __repr__(self) -> str:
        return f"ReproducibleEntropy({self.seed})"

    def _key(self, kind: str, purpose: str, round: int, group: str) -> bytes:
        # JSON keeps the parts apart: ("ab", "c") and ("a", "bc") get different keys.
        parts = json.dumps(["fedpriv entropy 1", kind, str(self.seed), purpose, int(round), group])
        return hashlib.sha256(parts.encode()).digest()


class _Keystream:
    """The ChaCha20 keystream of a key that is used once (RFC 8439; hence a zero nonce is safe)."""

    def __init__(self, key: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

        self._encryptor: Any = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
        self._left = 1 << 37  # The block counter has 32 bits of 64-byte blocks; half of that is already 128 GiB.

    def read(self, count: int) -> bytes:
        self._left -= count
        if self._left < 0:
            raise InputError("entropy: one draw may use at most 128 GiB of keystream; draw in several rounds.")
        out: bytes = self._encryptor.update(bytes(count))
        return out


def _fill_normal(out: NDArray[np.float64], stream: _Keystream) -> None:
    """Fill ``out`` with standard normals by the Box-Muller transform."""
    pairs = (out.size + 1) // 2
    bits = np.frombuffer(stream.read(16 * pairs), dtype="<u8").reshape(pairs, 2)
    # (0, 1] for the radius, so that the logarithm is finite; [0, 1) for the angle. All 64 bits count where the radius
    # is large, and u is small.
    radius = np.sqrt(-2.0 * np.log((bits[:, 0].astype(np.float64) + 1.0) * 2.0**-64))
    angle = (bits[:, 1] >> np.uint64(11)).astype(np.float64) * (2.0 * math.pi * 2.0**-53)
    out[0::2] = radius * np.cos(angle)
    out[1::2] = (radius * np.sin(angle))[: out.size // 2]
