"""What a configuration says about code of users' own: where it lies, and what a run keeps of it."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from fedpriv.settings import Settings

__all__ = ["CodeSettings", "SourceRecord"]


class SourceRecord(Settings):
    """One file of a run's code.

    Attributes
    ----------
    file : str
        Where it was.
    sha256 : str
        Of its bytes.
    """

    file: str
    sha256: str


class CodeSettings(Settings):
    """The section ``[code]``.

    Attributes
    ----------
    path : tuple of str
        Folders in which modules are looked up first, in their order; in a file relative to that file, whose own folder
        comes before them.
    modules : dict
        Written by runs: the files that a run was carried out with, by module.
    initial : str or None
        Written by runs: a SHA-256 of all that the model starts from.
    """

    path: tuple[str, ...] = ()
    modules: dict[str, SourceRecord] = Field(default_factory=dict)
    initial: str | None = None

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where modules are looked up first."""
        return tuple(Path(place).resolve() for place in self.path)
