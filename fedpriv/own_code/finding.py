"""Finds code of users' own by name and imports it; whatever is wrong with it becomes one sentence.

``module:Name`` is looked up in the folders of the configuration, in the current folder, and among installed packages,
in this order. This is the one place that puts a folder on the path; shards of Ray look where their driver does.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from fedpriv.errors import FedprivError, InputError, OwnCodeError
from fedpriv.names import nearest, unknown
from fedpriv.own_code.installed import offered
from fedpriv.own_code.sources import Source, imported, remember, source_file, sources_of

__all__ = ["Found", "failure", "load", "named", "put_on_path", "subclass_of", "target"]

_FORM = "module:Name, such as mynet:MyNet for the class MyNet of mynet.py"
_FORMS = {"metric": "module:function, such as mymeasures:gini for the function gini of mymeasures.py"}
"""How a name of code is written, by kind."""
_KEYS = {
    **{kind: f"{kind}.name" for kind in ("model", "client", "strategy")},
    **{"metric": "run.metrics", "server_update": "strategy.server_update"},
}
"""The key of a configuration that names code, by kind."""


def named(name: str) -> bool:
    """Tell whether a name is of code by its module."""
    return ":" in name


_places: list[Path] = []
"""Folders that this process has put on the path."""


def put_on_path(folders: Iterable[Path]) -> None:
    """Let modules be found in these folders: before those of earlier calls, and after all that is installed.

    After, because a file there may have the name of a module that somebody else imports.
    """
    mine = list(dict.fromkeys([*folders, *_places]))
    before = [place for place in sys.path if Path(place) not in _places]
    _places[:] = [folder for folder in mine if str(folder) not in before]
    sys.path[:] = [*before, *map(str, _places)]
    importlib.invalidate_caches()


@dataclass(frozen=True)
class Found:
    """What a name stands for.

    Attributes
    ----------
    value : Any
        A class, or whatever was called by the name.
    module : str
        The module that was named.
    sources : mapping of str to Source
        The files that it was made from, by module.
    folder : Path or None
        Where its module lies; None if it is installed.
    """

    value: Any
    module: str
    sources: Mapping[str, Source]
    folder: Path | None


def target(kind: str, name: str, known: Container[str]) -> str | None:
    """Return the ``module:Name`` that a name stands for; None where it is one of fedpriv's own, or unknown."""
    if name in known or named(name):
        return None if name in known else name
    offers = offered(kind)
    return offers[name].target if name in offers else None


_loaded: dict[str, Found] = {}
"""What this process has found, by ``module:Name``."""


def load(kind: str, name: str, known: Collection[str], folders: Iterable[Path] | None = None) -> Found:
    """Import what a name stands for.

    Parameters
    ----------
    kind : {"model", "client", "strategy", "metric", "server_update"}
        What it shall be.
    name : str
        ``module:Name``, or what an installed package offers.
    known : collection of str
        Names that fedpriv has itself, which nobody else can give a meaning.
    folders : iterable of Path or None
        Where to look before the current folder; None gives what this process has found already, if it has.

    Raises
    ------
    InputError
        There is no such thing, or its module cannot be imported.
    """
    meant = target(kind, name, known)
    if meant is None:
        raise InputError(f"{unknown(kind, name, {*known, *offered(kind)})} One of your own is named {_form(kind)}.")
    if folders is None and meant in _loaded:
        return _loaded[meant]
    module, attribute = _split(kind, name, meant)
    places = list(dict.fromkeys([*(folder.resolve() for folder in folders or ()), Path.cwd()]))
    put_on_path(places)
    file, folder = _locate(module, places)
    sources = sources_of(module, file, None if folder is None else places)
    if folder is not None:
        for source in sources.values():
            _refuse_hidden(source.module.partition(".")[0], places)
    _refuse_stale(sources)
    found = _import(module, file)
    remember(sources.values())
    _loaded[meant] = Found(_attribute(kind, found, attribute), module, sources, folder)
    return _loaded[meant]


def subclass_of(base: type, kind: str, name: str, found: Any) -> type:
    """Return a class that was found, if it is one of its kind that can be used.

    Raises
    ------
    InputError
        It is no class, of another kind, or abstract.
    """
    section = _KEYS[kind].partition(".")[0]
    before = "" if section == kind else f", with {kind.partition('_')[0]}_ before their names"
    if isinstance(found, base):
        raise InputError(
            f"{_KEYS[kind]} = {name!r} is an object made already; name its class, "
            f"{name.partition(':')[0]}:{type(found).__name__}, and give its settings as keys of [{section}]{before}."
        )
    if not isinstance(found, type) or not issubclass(found, base):
        article = "the class" if isinstance(found, type) else "an object of the type"
        what = found.__name__ if isinstance(found, type) else type(found).__name__
        raise InputError(
            f"{_KEYS[kind]} = {name!r} is {article} {what}, and a {kind} is a class that inherits from "
            f"{base.__name__}; name one that does."
        )
    if missing := sorted(getattr(found, "__abstractmethods__", ())):
        raise InputError(f"{_KEYS[kind]} = {name!r} is abstract: write its {', '.join(missing)}.")
    return found


def failure(error: BaseException, file: Path | None = None) -> str:
    """Say in half a sentence what failed, with the line of the user's file if that is known."""
    said = " ".join(str(error).split())
    text = f"{type(error).__name__}: {said}" if said else type(error).__name__
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file]
    if isinstance(error, SyntaxError) or not lines:
        return text
    return f"{text} (line {lines[-1]})"


def _form(kind: str) -> str:
    return _FORMS.get(kind, _FORM)


def _split(kind: str, name: str, meant: str) -> tuple[str, str]:
    module, _, attribute = meant.partition(":")
    if module.endswith(".py") or "/" in module or "\\" in module:
        stem = Path(module.replace("\\", "/")).name.removesuffix(".py")
        raise InputError(
            f"{_KEYS[kind]} = {name!r} names a file; name its module, {stem}:{attribute}, and its folder in code.path "
            "if it does not lie beside the configuration."
        )
    if not all(part.isidentifier() for part in [*module.split("."), attribute]):
        raise InputError(f"{_KEYS[kind]} = {name!r} is no name of code; write {_form(kind)}.")
    if module == "__main__":
        raise InputError(
            f"{_KEYS[kind]} = {name!r} lies in the script itself, which nodes cannot import; write a module."
        )
    return module, attribute


def _locate(module: str, places: list[Path]) -> tuple[Path, Path | None]:
    """Return the file of a module, and which of the places it lies in; None if in none of them."""
    top = module.partition(".")[0]
    root = next((place for place in places if source_file(place, top) or source_file(place, module)), None)
    if root is not None:
        file = source_file(root, module)
        if file is None:
            raise InputError(f"{root / top} has no module {module!r}; write it, or name another one.")
        return file.resolve(), root
    try:
        spec = find_spec(module)
    except Exception:  # a package around it that fails, or is no package
        spec = None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        close = nearest(module, {file.stem for place in places for file in place.glob("*.py")})
        hint = f"did you mean {close!r}? " if close else ""
        where = ", ".join(map(str, places))
        raise InputError(f"there is no module {module!r}: {hint}known places are {where}, and what is installed.")
    return Path(spec.origin).resolve(), None


def _refuse_hidden(top: str, places: list[Path]) -> None:
    """Refuse a file that has the name of something installed, which Python would take for it, or it for that."""
    mine = next((file for place in places if (file := source_file(place, top))), None)
    if mine is None:
        return
    if top in sys.stdlib_module_names:
        where: str | None = "Python's own library"
    else:
        others = [entry for entry in sys.path if Path(entry).resolve() not in (*places, *_places)]
        specs = (_spec(finder, top, others) for finder in sys.meta_path)
        where = next((spec.origin for spec in specs if spec is not None and spec.origin is not None), None)
        if where is not None and Path(where).resolve() == mine.resolve():
            return
    if where is not None:
        raise InputError(f"{mine} has the name of a module that is installed ({where}); rename the file.")
    spec = PathFinder.find_spec(top, sys.path)
    if spec is not None and spec.origin is not None and Path(spec.origin).resolve() != mine.resolve():
        raise InputError(f"Python finds {top!r} in {spec.origin} before {mine}; rename one of the two.")


def _spec(finder: Any, top: str, others: list[str]) -> ModuleSpec | None:
    found: ModuleSpec | None = finder.find_spec(top, others if finder is PathFinder else None)
    return found


def _refuse_stale(sources: Mapping[str, Source]) -> None:
    """Refuse what this process has imported from elsewhere, or when its file was another."""
    then = {source.module: source for source in imported()}
    for name, now in sources.items():
        here = getattr(sys.modules.get(name), "__file__", None)
        if here is None:
            continue
        if Path(here).resolve() != now.file:
            raise InputError(
                f"this process has imported {name!r} from {here}, and {now.file} is meant; start a new process (in a "
                "notebook: restart the kernel), or rename one of the two."
            )
        if name in then and then[name].sha256 != now.sha256:
            raise InputError(
                f"{now.file} was changed after this process imported it; start a new process (in a notebook: restart "
                "the kernel)."
            )


def _import(module: str, file: Path) -> ModuleType:
    try:
        return importlib.import_module(module)
    except FedprivError as error:
        raise InputError(f"{file} cannot be imported: {error}") from error
    except ModuleNotFoundError as error:
        raise InputError(f"{file} needs the module {error.name!r}, which is not there; install it.") from error
    except (Exception, SystemExit) as error:
        raise OwnCodeError(f"{file} cannot be imported: {failure(error, file)}; mend it.") from error


def _attribute(kind: str, module: ModuleType, name: str) -> Any:
    if name not in vars(module):
        mine = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise InputError(unknown(f"{kind} of {module.__name__}", name, mine))
    return vars(module)[name]
