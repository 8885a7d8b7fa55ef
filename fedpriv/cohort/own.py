"""Ways to make tasks of the data that people bring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from fedpriv.errors import InputError
from fedpriv.roster import Declared

if TYPE_CHECKING:
    from fedpriv.cohort.readers import Asked, Found, People

__all__ = ["NOT_SAID", "OwnData", "refuse_unsaid"]

NOT_SAID = cast(Declared, "")
Classes = int | Sequence[str] | Sequence[int] | None
_SHARES = (0.6, 0.2, 0.2)


def refuse_unsaid(declared: str) -> None:
    """Refuse data of which nobody has said what they are.

    Raises
    ------
    InputError
        ``declared`` is neither "benchmark" nor "protected".
    """
    if declared not in ("benchmark", "protected"):
        raise InputError(
            "say what these tasks are: declared='protected' for data of people (all runs spend one privacy budget, "
            "kept in a ledger file), or declared='benchmark' for data that are public (each run is accounted "
            "alone)" + (f"; got {declared!r}." if declared else ".")
        )


class OwnData:
    """The constructors of :class:`fedpriv.Tasks` that read.

    All give the same tasks for the same people. Names are compared, and kept, without blanks at their ends and in
    Unicode's composed form; tasks are in the order of their names. Two names that differ only in upper and
    lower case, in blanks or in characters that are not seen are refused. A person needs 3 examples.

    What is common to them:

    features : mapping of str, sequence of str, or None
        How columns are read: ``{"age": (0, 120), "sex": ["f", "m"], "income": "number", "pixel*": (0, 255)}``, see
        :mod:`fedpriv.cohort.readers.features`. A list names columns of numbers that stay as they are. None looks up
        what all other columns hold, of a benchmark.
    groups : str or None
        Of a table: the column that says in which *public* group a person is, a whole number, the same in all rows of a
        person. It is no feature, and says nothing that must be protected: groups are known to everybody.
    classes : int, sequence of str or int, "infer" or None
        The number of classes, where labels are whole numbers from 0 on; their names, in order, which may be whole
        numbers; None for a regression. ``"infer"`` looks them up in the labels of a benchmark.
    split : (train, validation, test) or str
        Shares within each task, by a public seed; or the column that says train, validation or test.
    declared : {"benchmark", "protected"}
        What the data are. Of protected data nothing is looked up in values; a value that cannot be used is named in no
        message, and its task counts as zero. Of a benchmark it is refused with row and column.
    seed : int
        Public: of the split, which depends on it, the person's name and the number of examples.
    dataset : str or None
        What reports call the data.
    """

    @classmethod
    def _of(cls, people: People, asked: Asked) -> Self:
        raise NotImplementedError

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        *,
        task: str,
        target: Any,
        features: Any = None,
        groups: str | None = None,
        classes: Classes = None,
        split: Sequence[float] | str = _SHARES,
        declared: Declared = NOT_SAID,
        seed: int = 0,
        dataset: str = "frame",
    ) -> Self:
        """Make tasks of a table in memory with a row for each example.

        Parameters
        ----------
        frame : pandas.DataFrame or pyarrow.Table
            Or a frame of another library with Arrow's interface. An index is not looked at.
        task : str
            The column that says whose a row is: text or whole numbers, ``007`` stays what it is.
        target : str, sequence of str, or mapping of str
            The column that is to be predicted; of a regression several, or ``{"score": (0, 100)}`` to have it scaled.
        features, groups, classes, split, declared, seed, dataset
            See :class:`OwnData`.

        Raises
        ------
        InputError
            Something is not there or does not fit, or would be fitted to values of protected data; of a benchmark, a
            value cannot be used.

        Examples
        --------
        >>> Tasks.from_frame(
        ...     frame, task="school", target="score", features={"age": (5, 20), "sex": ["f", "m"]}, declared="protected"
        ... )  # doctest: +SKIP
        """
        refuse_unsaid(declared)
        from fedpriv.cohort.readers import Asked, people_of, table_of

        asked = Asked(declared, dataset, classes, split, seed)
        people = people_of(table_of(frame), asked, task=task, target=target, features=features, groups=groups)
        return cls._of(people, asked)

    @classmethod
    def from_table(
        cls,
        path: Path | str,
        *,
        task: str,
        target: Any,
        features: Any = None,
        groups: str | None = None,
        classes: Classes = None,
        split: Sequence[float] | str = _SHARES,
        declared: Declared = NOT_SAID,
        seed: int = 0,
        dataset: str | None = None,
        separator: str | None = None,
        decimal: str | None = None,
        encoding: str | None = None,
        found: Found | None = None,
    ) -> Self:
        """Make tasks of a file: ``.csv``, ``.tsv``, ``.txt``, plain or gzip, or ``.parquet``.

        Parameters
        ----------
        path : path
            The file; its first line names the columns.
        separator : str or None
            Between cells; unless given the one of comma, semicolon, tab and bar that the first line has most often.
        decimal : {".", ","} or None
            Before decimals; unless given the point, and in a file with semicolons the point or the comma: one of both
            in each column, of protected data in each person's rows of it, and a number with the other cannot be used.
            There is nothing between thousands.
        encoding : str or None
            UTF-8 unless given; nothing is guessed.
        found : callable or None
            Gets each column's marks of values that are missing, cannot be read, or were changed: private where the
            data are.
        task, target, features, groups, classes, split, declared, seed, dataset
            As :meth:`from_frame`.

        Raises
        ------
        InputError
            As :meth:`from_frame`, or the file is damaged: with its line.
        """
        refuse_unsaid(declared)
        from fedpriv.cohort.readers import Asked, open_table, people_of

        place = Path(path)
        asked = Asked(declared, dataset or place.name, classes, split, seed, found)
        table = open_table(place, separator=separator, decimal=decimal, encoding=encoding)
        people = people_of(table, asked, task=task, target=target, features=features, groups=groups)
        return cls._of(people, asked)

    @classmethod
    def from_saved_dataset(
        cls,
        path: Path | str,
        *,
        task: str,
        target: Any,
        features: Any = None,
        groups: str | None = None,
        classes: Classes = None,
        split: Sequence[float] | str | None = None,
        declared: Declared = NOT_SAID,
        seed: int = 0,
        dataset: str | None = None,
        found: Found | None = None,
    ) -> Self:
        """Make tasks of a folder that Hugging Face's ``save_to_disk`` wrote, by the column that says whose a row is.

        Parameters
        ----------
        path : path
            The folder. Nothing is downloaded, and the library ``datasets`` is not needed.
        features
            As :meth:`from_frame`; the name of one column of images gives inputs [N, colours, height, width].
        classes
            As :meth:`from_frame`; of a benchmark, those that the data set names for its column of labels.
        split : (train, validation, test), str or None
            None keeps the splits that the data set was saved with, if there are any.
        found : callable or None
            As :meth:`from_table`.
        task, target, groups, declared, seed, dataset
            As :meth:`from_frame`.

        Raises
        ------
        InputError
            As :meth:`from_frame`, or the folder is damaged or another.
        """
        refuse_unsaid(declared)
        from fedpriv.cohort.readers import Asked, people_of, table_of_saved

        place = Path(path)
        saved = table_of_saved(place)
        if classes is None and declared == "benchmark" and isinstance(target, str) and target in saved.class_names:
            classes = len(saved.class_names[target])
        asked = Asked(declared, dataset or place.name, classes, _SHARES if split is None else split, seed, found)
        parts = saved.parts if split is None else None
        people = people_of(saved.table, asked, task=task, target=target, features=features, groups=groups, parts=parts)
        return cls._of(people, asked)

    @classmethod
    def from_leaf(
        cls,
        path: Path | str,
        *,
        classes: Classes = None,
        split: Sequence[float] = _SHARES,
        declared: Declared = NOT_SAID,
        seed: int = 0,
        dataset: str | None = None,
        found: Found | None = None,
    ) -> Self:
        """Make tasks of LEAF's JSON (``users``, ``num_samples``, ``user_data``).

        Parameters
        ----------
        path : path
            A file, a folder of files, or a folder with ``train`` and ``test``, whose division is then kept.
        found : callable or None
            As :meth:`from_table`.
        classes, split, declared, seed, dataset
            See :class:`OwnData`.

        Raises
        ------
        InputError
            A file is damaged, lists of a user do not fit, or, of a benchmark, a value cannot be used.
        """
        refuse_unsaid(declared)
        from fedpriv.cohort.readers import Asked
        from fedpriv.cohort.readers.leaf import read_leaf

        asked = Asked(declared, dataset or Path(path).name, classes, split, seed, found)
        return cls._of(read_leaf(Path(path), asked), asked)

    @classmethod
    def from_images(
        cls,
        folder: Path | str,
        *,
        classes: Sequence[str] | Literal["infer"] | None = None,
        split: Sequence[float] = _SHARES,
        declared: Declared = NOT_SAID,
        seed: int = 0,
        dataset: str | None = None,
        size: tuple[int, int] | None = None,
        colour: Literal["grey", "rgb"] | None = None,
        found: Found | None = None,
    ) -> Self:
        """Make tasks of a folder for each person, in it one for each class, in it the images.

        Parameters
        ----------
        folder : path
            Holds the people's folders.
        classes : sequence of str, "infer" or None
            Names of the classes' folders in order; looked up in a benchmark unless given.
        size : (height, width) or None
            What all are resized to; unless given they must have one size.
        colour : {"grey", "rgb"} or None
            What they are turned into; unless given they stay as they are.
        found : callable or None
            As :meth:`from_table`.
        split, declared, seed, dataset
            See :class:`OwnData`.

        Raises
        ------
        InputError
            A file is damaged or no image, images differ in size or colours, or, of a benchmark, a folder is no class.
        """
        refuse_unsaid(declared)
        from fedpriv.cohort.readers import Asked
        from fedpriv.cohort.readers.images import read_image_folder

        asked = Asked(declared, dataset or Path(folder).resolve().name, classes, split, seed, found)
        return cls._of(read_image_folder(Path(folder), asked, size=size, colour=colour), asked)

    @classmethod
    def from_arrays(
        cls,
        people: Mapping[str, tuple[Any, Any]],
        *,
        classes: Classes = None,
        split: Sequence[float] = _SHARES,
        declared: Declared = NOT_SAID,
        seed: int = 0,
        dataset: str = "arrays",
    ) -> Self:
        """Make tasks of inputs and targets for each person's name.

        Parameters
        ----------
        people : mapping of str to (inputs, targets)
            Arrays, Tensors, DataFrames of numbers or lists [n, ...]; nothing is scaled, and whole numbers stay whole.
            But types of lists, pandas tables and arrays of objects follow from the values, which decide nothing in
            protected data: such inputs are floats there. Give ids for ``nn.Embedding`` as arrays of whole numbers.
        classes, split, declared, seed, dataset
            See :class:`OwnData`.

        Raises
        ------
        InputError
            An entry's inputs and targets differ in number, or entries in shape or type; or as :meth:`from_frame`.

        Examples
        --------
        >>> Tasks.from_arrays({"ann": (x, y)}, classes=2, declared="protected")  # doctest: +SKIP
        """
        refuse_unsaid(declared)
        from fedpriv.cohort.readers import Asked
        from fedpriv.cohort.readers.arrays import people_of_arrays

        asked = Asked(declared, dataset, classes, split, seed)
        return cls._of(people_of_arrays(people, asked), asked)

    @classmethod
    def from_datasets(
        cls,
        people: Mapping[str, Any],
        *,
        classes: Classes = None,
        split: Sequence[float] = _SHARES,
        declared: Declared = NOT_SAID,
        seed: int = 0,
        dataset: str = "data sets",
    ) -> Self:
        """Make tasks of a torch ``Dataset`` of pairs (input, target) for each person's name; all of it is read.

        Parameters
        ----------
        people : mapping of str to torch.utils.data.Dataset
            One that only iterates is welcome, too.
        classes, split, declared, seed, dataset
            See :class:`OwnData`.

        Raises
        ------
        InputError
            One gives something else than pairs; or as :meth:`from_arrays`.
        """
        refuse_unsaid(declared)
        from fedpriv.cohort.readers.arrays import examples_of

        found = examples_of(people, protected=declared == "protected")
        return cls.from_arrays(found, classes=classes, split=split, declared=declared, seed=seed, dataset=dataset)
