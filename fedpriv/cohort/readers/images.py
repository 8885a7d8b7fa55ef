"""Images as arrays of floats from 0 to 1: of folders, person/class/image, and of columns."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from fedpriv.cohort.readers.asked import Asked
from fedpriv.cohort.readers.encode import Mark
from fedpriv.cohort.readers.paths import inside
from fedpriv.cohort.readers.people import People, divide, tidy
from fedpriv.errors import InputError

__all__ = ["Colour", "decoded", "read_image_folder"]

_LOG = logging.getLogger(__name__)

Colour = Literal["grey", "rgb"]
_MODES: dict[str | None, str | None] = {None: None, "grey": "L", "rgb": "RGB"}
_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
_LITTER = ("Thumbs.db", "desktop.ini")


def read_image_folder(
    folder: Path, asked: Asked, *, size: tuple[int, int] | None = None, colour: Colour | None = None
) -> People:
    """Read a folder for each person, in it one for each class, in it the images.

    Files and folders that begin with a point are passed over.

    Parameters
    ----------
    folder : Path
        Holds a folder for each person.
    asked : Asked
        What is said of the data; the classes are names of folders, looked up in a benchmark unless given.
    size : (height, width) or None
        What all images are resized to; unless given they must have one size.
    colour : {"grey", "rgb"} or None
        What they are turned into; unless given they stay as they are.

    Returns
    -------
    People
        Inputs float32 [N, channels, height, width] in [0, 1].

    Raises
    ------
    InputError
        Something is no folder or no image, or images differ in size or colours.
    """
    what = repr(folder.name)
    shares, classes, found = asked.shares("a folder of images"), asked.classes, asked.found
    if colour not in _MODES:
        raise InputError(f"colour must be 'grey' or 'rgb', got {colour!r}; leave it out to keep the images' own.")
    if size is not None and (len(size) != 2 or not all(isinstance(one, int) and one > 0 for one in size)):
        raise InputError(f"size must be [height, width] in whole pixels, got {size!r}; give [28, 28].")
    people = _inside(folder, what)
    names = classes
    if classes is None or classes == "infer":
        if asked.protected:
            raise InputError(
                "classes of protected data would be looked up in the folders of people's labels, so they are looked up "
                "in public benchmarks only; give their names in order, classes=['no', 'yes']."
            )
        names = sorted({kind.name for person in people for kind in _inside(person, what)})
        _LOG.info("%s: looked up %d classes in the folders: %s.", what, len(names), ", ".join(names[:20]))
    if isinstance(names, str) or not all(isinstance(one, str) for one in names):
        raise InputError(f"classes must name the folders of classes in order, got {classes!r}; give ['no', 'yes'].")
    number = {tidy(name): place for place, name in enumerate(names)}
    files: list[Path] = []
    owner: list[int] = []
    labels: list[int] = []
    for whose, person in enumerate(people):
        for kind in _inside(person, what):
            label = number.get(tidy(kind.name), -1)
            if label < 0 and not asked.protected:
                raise InputError(
                    f"{what} has the class {kind.name!r} of {person.name!r}, which is none of the classes; add it to "
                    "classes, or rename the folder."
                )
            own = _files(kind, person, what)
            files += own
            owner += [whose] * len(own)
            labels += [label] * len(own)

    def place(row: int) -> str:
        # The folder between says the label.
        return f"{people[owner[row]].name}/*/{files[row].name}"

    cuts = np.array(owner, dtype=np.int64)
    division = divide(what, [one.name for one in people], cuts, place, shares, asked.seed)
    if found is not None and min(labels, default=0) < 0:
        marks = np.where(np.array(labels) < 0, Mark.NO_CATEGORY, Mark.FINE).astype(np.int8)
        found("class", marks, _Whole(folder, files))
    inputs = _stack([path.open for path in files], what, place, size, _MODES[colour])
    return People.gather(asked.dataset, division, inputs, np.array(labels, dtype=np.int64), len(number))


@dataclass(frozen=True)
class _Whole:
    """Says where an image stands with its label, for its owner alone."""

    folder: Path
    files: list[Path]

    def place(self, row: int) -> str:
        return self.files[row].relative_to(self.folder).as_posix()


def decoded(values: Any, what: str, place: Callable[[int], str]) -> NDArray[np.float32]:
    """Return a column of encoded images (of Hugging Face) as floats [N, channels, height, width] in [0, 1].

    Raises
    ------
    InputError
        The column holds paths alone, something that is no image, or images of different sizes or colours.
    """
    contents = values.field("bytes").to_pylist()

    def opener(row: int) -> Callable[[str], IO[bytes]]:
        if contents[row] is None:
            raise InputError(
                f"{what} has no bytes of the image in {place(row)}, only a path or nothing; save the data set with its "
                "images embedded."
            )
        return lambda _: io.BytesIO(contents[row])

    return _stack([opener(row) for row in range(len(contents))], what, place, None, None)


def _stack(
    openers: list[Any], what: str, place: Callable[[int], str], size: tuple[int, int] | None, mode: str | None
) -> NDArray[np.float32]:
    found: NDArray[np.float32] | None = None
    for row, opener in enumerate(openers):
        one = _pixels(opener, f"{what} has an image, {place(row)},", size, mode)
        if found is None:
            found = np.empty((len(openers), *one.shape), dtype=np.float32)
        if one.shape != found.shape[1:]:
            raise InputError(
                f"{what} has an image, {place(row)}, of shape {one.shape} [colours, height, width] where the first has "
                f"{found.shape[1:]}; give size=[height, width], or colour='grey' or 'rgb'."
            )
        found[row] = one
    if found is None:
        raise InputError(f"{what} has no images; lay them as person/class/image.")
    return found


def _pixels(opener: Any, what: str, size: tuple[int, int] | None, mode: str | None) -> NDArray[np.float32]:
    try:
        with opener("rb") as stream, Image.open(stream) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode in ("P", "1"):
                image = image.convert("RGB" if image.mode == "P" else "L")
            if mode is not None and not image.mode.startswith("I"):
                image = image.convert(mode)
            if size is not None:
                image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
            pixels = np.asarray(image)
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError):
        raise InputError(f"{what} that cannot be read, so it is damaged or no image; replace it.") from None
    if pixels.dtype == np.uint8 and (pixels.ndim == 2 or pixels.shape[2] == 3):
        scaled = pixels.astype(np.float32) / np.float32(255)
    elif pixels.dtype in (np.uint16, np.int32) and pixels.ndim == 2:
        scaled = pixels.astype(np.float32) / np.float32(65535)
    else:
        raise InputError(f"{what} that is neither grey nor RGB; give colour='rgb' or 'grey'.")
    found: NDArray[np.float32] = scaled[None] if scaled.ndim == 2 else scaled.transpose(2, 0, 1)
    return found


def _inside(folder: Path, what: str) -> list[Path]:
    """Return the folders in a folder, in the order of their names."""
    try:
        found = [one for one in folder.iterdir() if not one.name.startswith(".") and one.name not in _LITTER]
    except OSError as error:
        raise InputError(f"{what} cannot be read: {error.strerror}; give a folder person/class/image.") from None
    if any(not one.is_dir() for one in found) or not found:
        holds = "a file where a folder belongs" if found else "nothing"
        raise InputError(
            f"{what} must hold a folder for each person, in it one for each class, in it the images, but "
            f"{folder.name!r} holds {holds}; lay them so, or remove it."
        )
    return sorted(found)


def _files(kind: Path, person: Path, what: str) -> list[Path]:
    found = [one for one in inside(kind) if not one.name.startswith(".") and one.name not in _LITTER]
    strange = next((one for one in found if not one.is_file() or one.suffix.lower() not in _ENDINGS), None)
    if strange is not None:
        raise InputError(
            f"{what} has {person.name}/*/{strange.name}, which is no image by its name ({', '.join(_ENDINGS)}); move "
            "it away."
        )
    return found
