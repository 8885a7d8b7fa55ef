"""A data file of one's own by the keys of ``[data]``: which reader it is for, and what that reader is told."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from numpy.typing import NDArray
from pydantic import Field, field_validator

from fedpriv.errors import InputError
from fedpriv.roster import Declared
from fedpriv.settings import Settings

if TYPE_CHECKING:
    from fedpriv.cohort.readers import Found
    from fedpriv.cohort.tasks import Tasks

__all__ = ["FileKind", "OwnFile", "kind_of_file", "own_inputs", "own_tasks"]

FileKind = Literal["table", "saved data set", "LEAF", "images"]
_TABLE = {"task", "target", "features", "groups"}
_TEXT = {"separator", "decimal", "encoding"}
_IMAGES = {"size", "colour"}
_OPTIONS: dict[FileKind, set[str]] = {
    "table": _TABLE | _TEXT,
    "saved data set": _TABLE,
    "LEAF": set(),
    "images": _IMAGES,
}
"""Keys beyond those that all kinds have."""


class OwnFile(Settings):
    """The keys of ``[data]`` beside ``file``: what :class:`fedpriv.cohort.own.OwnData` says of each.

    Attributes
    ----------
    file : str
        A table (``.csv``, ``.tsv``, ``.txt``, ``.parquet``), a folder that Hugging Face's ``save_to_disk`` wrote,
        LEAF's JSON (a ``.json`` file or a folder of them), or a folder of images, person/class/image.
    task, target, features, groups
        Of a table or a saved data set.
    classes, split, seed
        Of all.
    separator, decimal, encoding
        Of a table in a text file.
    size, colour
        Of images.
    """

    called: ClassVar[str] = "data"

    file: str
    task: str | None = None
    target: str | list[str] | dict[str, Any] | None = None
    features: str | list[str] | dict[str, Any] | None = None
    groups: str | None = None
    classes: int | str | list[str] | None = None
    split: str | list[float] | tuple[float, ...] | None = None
    seed: int = Field(default=0, ge=0)
    separator: str | None = None
    decimal: str | None = None
    encoding: str | None = None
    size: tuple[int, int] | None = None
    colour: Literal["grey", "rgb"] | None = None

    @field_validator("classes", mode="before")
    @classmethod
    def _are_texts(cls, classes: Any) -> Any:
        """Take whole numbers for the texts that a table has them as."""
        whole = isinstance(classes, list) and all(isinstance(one, int) and not isinstance(one, bool) for one in classes)
        return [str(one) for one in classes] if whole else classes

    @field_validator("file")
    @classmethod
    def _is_named(cls, file: str) -> str:
        if not file.strip():
            raise ValueError("'file' must be the path of a file or folder, got an empty one.")
        return file


def kind_of_file(path: Path) -> FileKind:
    """Return what a file or folder holds, by its name and what lies in it.

    Raises
    ------
    InputError
        There is nothing, nothing that may be read, or a folder of tables.
    """
    from fedpriv.cohort.readers import is_saved_dataset
    from fedpriv.cohort.readers.files import is_table
    from fedpriv.cohort.readers.paths import at, inside

    here = at(path)
    if here is None:
        raise InputError(f"data.file: there is no {str(path)[:500]!r}; give the path of a file or folder.")
    if here == "file":
        return "LEAF" if path.suffix.lower() == ".json" else "table"
    within = inside(path)
    if is_saved_dataset(path):
        return "saved data set"
    if any(one.suffix == ".json" for one in [*within, *path.glob("train/*")]):
        return "LEAF"
    if any(map(is_table, within)):
        raise InputError(f"data.file: {path.name!r} is a folder of tables; give the path of one of them.")
    return "images"


def own_tasks(values: dict[str, Any], declared: Declared | None, found: Found | None = None) -> Tasks:
    """Read a data file of one's own.

    Parameters
    ----------
    values : dict
        Fields of :class:`OwnFile`.
    declared : {"benchmark", "protected"} or None
        What the data are.
    found : callable or None
        As :meth:`fedpriv.Tasks.from_table`.

    Raises
    ------
    InputError
        A key is missing, unknown, of another kind of file, or out of bounds, or as the reader.
    """
    from fedpriv.cohort.tasks import Tasks

    settings = OwnFile(**values)
    if declared is None:
        raise InputError(
            "run.declared must say what the data of data.file are: 'protected' for data of people (all runs spend one "
            "privacy budget, kept in a ledger file), or 'benchmark' for data that are public; set it."
        )
    path = Path(settings.file).expanduser()
    kind = kind_of_file(path)
    given = settings.model_dump(exclude={"file"}, exclude_unset=True, exclude_none=True)
    strange = sorted(set(given) - _OPTIONS[kind] - {"classes", "split", "seed"})
    if strange:
        raise InputError(
            f"data.{strange[0]} does not go with {path.name!r}, which is read as {_IN_WORDS[kind]}; leave it out."
        )
    given["declared"] = declared
    if kind == "LEAF":
        return Tasks.from_leaf(path, found=found, **given)
    if kind == "images":
        return Tasks.from_images(path, found=found, **given)
    for name in ("task", "target"):
        if name not in given:
            says = "whose each row is" if name == "task" else "what is to be predicted"
            raise InputError(
                f"data.{name} must name the column of {path.name!r} that says {says}; `fedpriv data check FILE` lists "
                "the columns."
            )
    if kind == "saved data set":
        return Tasks.from_saved_dataset(path, found=found, **given)
    return Tasks.from_table(path, found=found, **given)


def own_inputs(values: dict[str, Any], path: Path) -> NDArray[Any]:
    """Read inputs of new rows by the rules of a table or saved data set of one's own, to predict from them.

    Parameters
    ----------
    values : dict
        Fields of :class:`OwnFile` by which a model's data were read; its ``features`` are used.
    path : Path
        A table, or a folder that ``save_to_disk`` wrote, with the columns of the features.

    Returns
    -------
    ndarray of float64, shape [n, d] (of images float32)
        NaN where a value cannot be used.

    Raises
    ------
    InputError
        The rules were not written down, or need the rows that the model was trained on; or the file does not fit.
    """
    from fedpriv.cohort.readers import inputs_of, is_saved_dataset, open_table, table_of_saved

    settings = OwnFile(**values)
    if settings.features is None:
        raise InputError(
            "data.features do not say how columns are read, so new rows cannot be read in the same way; name them in "
            "the configuration that the model was trained with."
        )
    text = settings.model_dump(include=_TEXT, exclude_none=True)
    table = table_of_saved(path).table if is_saved_dataset(path) else open_table(path, **text)
    return inputs_of(table, settings.features)


_IN_WORDS: dict[FileKind, str] = {
    "table": "a table",
    "saved data set": "a data set that save_to_disk wrote",
    "LEAF": "LEAF's JSON",
    "images": "a folder of images",
}
