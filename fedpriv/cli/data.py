"""``fedpriv data``: which data sets there are, and whether their files are right."""

from __future__ import annotations

from dataclasses import asdict

from fedpriv.cli.options import DataDir, JsonFlag, say_json, show_table
from fedpriv.errors import InputError

__all__ = ["data_check", "data_list"]


def data_list(as_json: JsonFlag = False) -> None:
    """Show sources, licences and files of the data sets."""
    from fedpriv.data import sources

    if as_json:
        say_json([asdict(one) for one in sources()])
        return
    rows = [
        {"data set": one.name, "title": one.title, "source": one.source, "licence": one.licence} for one in sources()
    ]
    show_table(rows, as_json)


def data_check(data_dir: DataDir = None, as_json: JsonFlag = False) -> None:
    """Check that the files are here, with the right checksums."""
    from fedpriv.data import check

    results = check(data_dir)
    show_table([asdict(result) for result in results], as_json)
    if any(result.status == "corrupt" for result in results):
        raise InputError("some files are not what they should be; fetch them again.")
