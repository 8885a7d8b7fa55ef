"""The IDX format of MNIST and its relatives: a magic number, the sizes of the axes, then the values."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpriv.errors import InputError

__all__ = ["parse_idx", "read_content", "read_idx"]

_GZIP_MAGIC = b"\x1f\x8b"
_TYPES: dict[int, str] = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_content(path: Path) -> bytes:
    """Return the content of a plain or gzip-compressed file (recognised by its first bytes, not by its name).

    Raises
    ------
    InputError
        The file cannot be read, or its gzip stream is damaged or cut short.
    """
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content.startswith(_GZIP_MAGIC) else content
    except (gzip.BadGzipFile, EOFError, zlib.error, struct.error) as error:
        raise InputError(
            f"the file {str(path)!r} is a damaged gzip file ({error}); fetch it again, then run `fedpriv data check`."
        ) from None
    except OSError as error:
        raise InputError(f"the file {str(path)!r} cannot be read: {error.strerror or error}.") from None


def parse_idx(content: bytes, name: str) -> NDArray[Any]:
    """Return the array held by IDX bytes.

    The format: two zero bytes, one byte for the type, one byte for the number of axes ``d``, ``d`` big-endian
    32-bit sizes, then the values in big-endian C order.

    Parameters
    ----------
    content : bytes
        The uncompressed content.
    name : str
        What to call it in errors.

    Returns
    -------
    ndarray
        In native byte order; read-only where no byte had to be swapped.

    Raises
    ------
    InputError
        A wrong magic number, an unknown type, or more or fewer bytes than the sizes demand.

    References
    ----------
    The description of the format by LeCun, Cortes and Burges on the page of the MNIST database.
    """
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _TYPES or content[3] == 0:
        raise InputError(
            f"{name} is not an IDX file: its first bytes must be 00 00, a type, a number of axes, "
            f"got {content[:4].hex(' ') or 'nothing'}; fetch it again, then run `fedpriv data check`."
        )
    axes = content[3]
    start = 4 + 4 * axes
    if len(content) < start:
        raise InputError(f"{name} ends within its header ({len(content)} of {start} bytes); fetch it again.")
    shape = struct.unpack(f">{axes}I", content[4:start])
    dtype = np.dtype(_TYPES[content[2]])
    expected = start + math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        raise InputError(
            f"{name} announces shape {shape}, that is {expected} bytes, and holds {len(content)}; "
            "it is cut short or damaged: fetch it again, then run `fedpriv data check`."
        )
    values = np.frombuffer(content, dtype=dtype, offset=start).reshape(shape)
    return values.astype(dtype.newbyteorder("="), copy=False)


def read_idx(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Read an IDX file of bytes, plain or gzip, and verify its shape.

    Parameters
    ----------
    path : Path
        The file.
    shape : tuple of int
        The shape that it must have.

    Returns
    -------
    ndarray of uint8, of that shape

    Raises
    ------
    InputError
        The file is damaged, or of another shape or type.
    """
    values = parse_idx(read_content(path), f"the file {str(path)!r}")
    if values.shape != shape or values.dtype != np.uint8:
        raise InputError(
            f"the file {str(path)!r} must hold uint8 values of shape {shape}, got {values.dtype} of shape "
            f"{values.shape}; put the right file there, then run `fedpriv data check`."
        )
    return values
