"""The files that a module is made of, with a SHA-256 of each: what a run was carried out with."""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedpriv.errors import ComponentFailure

__all__ = ["Source", "imported", "refuse_other_sources", "remember", "source_file", "sources_of"]

_PACKAGE = "fedpriv"
"""Whose own files are no user's code, also where a clone lies beside it."""


@dataclass(frozen=True)
class Source:
    """One module.

    Attributes
    ----------
    module : str
        As Python imports it.
    file : Path
        Where it lies, in full.
    sha256 : str
        Of the file's bytes.
    """

    module: str
    file: Path
    sha256: str

    @classmethod
    def read(cls, module: str, file: Path) -> Source:
        """Read a file as it is now."""
        return cls(module, file, hashlib.sha256(file.read_bytes()).hexdigest())


_imported: dict[str, Source] = {}
"""What this process has imported as users' code, as the files were then."""


def imported() -> tuple[Source, ...]:
    """Return what this process has imported as users' code."""
    return tuple(_imported.values())


def remember(sources: Iterable[Source]) -> None:
    """Keep, from when a module is imported, what its files were then."""
    for source in sources:
        _imported.setdefault(source.module, source)


def refuse_other_sources(expected: Iterable[Source]) -> None:
    """Refuse to work with other code than the process that sent the work: an edit may have come in between.

    Modules that this process has not imported are nothing to it.

    Raises
    ------
    ComponentFailure
        A module is not the same here.
    """
    for source in expected:
        here = getattr(sys.modules.get(source.module), "__file__", None)  # none of a namespace or a built-in module
        if here is not None and Source.read(source.module, Path(here)).sha256 != source.sha256:
            raise ComponentFailure(
                f"{here} is not as it was when the run began, so what it does here would be another run's work; "
                "put it back and go on with --resume, or start a new run."
            )


def source_file(root: Path, module: str) -> Path | None:
    """Return the file of a module below a folder, a package's ``__init__.py`` first, as Python has it."""
    place = root.joinpath(*module.split("."))
    candidates = (place / "__init__.py", place.with_name(f"{place.name}.py"))
    return next((file for file in candidates if file.is_file()), None)


def sources_of(module: str, file: Path, places: Sequence[Path] | None) -> Mapping[str, Source]:
    """Return a module and all that it imports of users' code, now or later, by name.

    Parameters
    ----------
    module : str
        As Python imports it.
    file : Path
        Its file.
    places : sequence of Path or None
        Folders of users' code, as Python looks them up; None for an installed module, of whose package only its own
        modules are meant.
    """
    depth = module.count(".") + (1 if file.stem == "__init__" else 0)
    root, top = file.parents[depth], module.partition(".")[0]
    others = places or ()
    found: dict[str, Source] = {}
    left = [module]
    while left:
        parts = left.pop().split(".")
        if parts[0] == _PACKAGE or (places is None and parts[0] != top):
            continue
        folders = [root, *others] if parts[0] == top else [*others, root]
        if (package := next((folder for folder in folders if source_file(folder, parts[0])), None)) is not None:
            folders = [package]  # what else is in it lies there, too
        for length in range(1, len(parts) + 1):  # Python runs the packages around a module, too
            name = ".".join(parts[:length])
            files = (source_file(folder, name) for folder in folders)
            place = file if name == module else next((one for one in files if one is not None), None)
            if place is None or name in found:
                continue
            found[name] = Source.read(name, place.resolve())
            left += _imports(name, place)
    return found


def _imports(module: str, file: Path) -> Iterator[str]:
    """Yield the names that a module imports anywhere in it; some may be no modules."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # its import says what is wrong; an extension has no source
        return
    package = module if file.stem == "__init__" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
