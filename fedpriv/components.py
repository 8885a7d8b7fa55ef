"""Parts of a run by name: fedpriv's own, what installed packages offer, and users' own.

Models, client algorithms and strategies have a section each; metrics and server updates are named inside of one.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fedpriv.errors import FedprivError, InputError, OwnCodeError
from fedpriv.names import kebab
from fedpriv.own_code import CodeSettings, Found, SourceRecord, failure, load, offered, subclass_of, target
from fedpriv.settings import Settings

__all__ = [
    "KINDS",
    "builtin",
    "code_kept",
    "component",
    "find_all",
    "known_settings",
    "made",
    "names_of",
    "refuse_changed",
]

KINDS = ("model", "client", "strategy")
"""What has a section of the configuration, whose ``name`` chooses it."""
_KEYS = {**{f"{kind}.name": kind for kind in KINDS}, "strategy.server_update": "server_update", "run.metrics": "metric"}
"""Which kind each key names that can name code of users' own."""
_LOG = logging.getLogger("fedpriv")
_TARGET = ("epsilon", "delta", "relation")


def builtin(kind: str) -> dict[str, Any]:
    """Return fedpriv's own of one kind, by name."""
    import fedpriv.clients
    import fedpriv.strategies
    from fedpriv.cohort import METRICS
    from fedpriv.models import MODELS
    from fedpriv.strategies.server_updates.choice import builtin_updates

    if kind == "model":
        return dict(MODELS)
    if kind == "metric":
        return dict(METRICS)
    if kind == "server_update":
        return dict(builtin_updates())
    module = fedpriv.clients if kind == "client" else fedpriv.strategies
    known = {kebab(public): getattr(module, public) for public in module.__all__}
    return {key: value for key, value in known.items() if not getattr(value, "__abstractmethods__", None)}


def names_of(kind: str) -> list[dict[str, str]]:
    """Return what can be named, for a table: fedpriv's own, and what installed packages offer."""
    mine = {
        name: {"name": name, "about": (inspect.getdoc(one) or "").partition("\n")[0], "from": "fedpriv"}
        for name, one in builtin(kind).items()
    }
    others = {
        name: {"name": name, "about": offer.target, "from": offer.package} for name, offer in offered(kind).items()
    }
    return [one for _, one in sorted({**others, **mine}.items())]


def component(kind: str, name: Any, folders: Iterable[Path] = ()) -> Any:
    """Return the class, or for a model what makes it, that a name stands for.

    Parameters
    ----------
    kind : {"model", "client", "strategy", "metric", "server_update"}
        What it shall be.
    name : Any
        As it was typed.
    folders : iterable of Path
        Where code of users' own is looked up first.

    Raises
    ------
    InputError
        There is none, or it is no such thing.
    """
    known = builtin(kind)
    return known[name] if name in known else _own(kind, str(name), known, folders).value


def find_all(config: Mapping[str, Mapping[str, Any]], folders: Iterable[Path]) -> None:
    """Look up all code of users' own that a configuration names, so that whoever needs it finds the same.

    Raises
    ------
    InputError
        As :func:`component`.
    """
    for kind, name in _named(config, {}):
        component(kind, name, folders)


def known_settings(kind: str, name: str, folders: Iterable[Path] = ()) -> set[str]:
    """Return the settings that may stand beside a name.

    Raises
    ------
    InputError
        As :func:`component`.
    """
    from fedpriv.strategies.server_updates.choice import known_settings as update_settings

    found = component(kind, name, folders)
    if not (isinstance(found, type) and issubclass(found, Settings)):
        return set(inspect.signature(found).parameters)
    fields = found.model_fields
    beside = update_settings(None) if "server_update" in fields else set()
    return set(fields) | beside | (set(_TARGET) if "target" in fields else set())


def made(kind: str, name: Any, settings: Mapping[str, Any], folders: Iterable[Path] = ()) -> Any:
    """Make a client algorithm or a strategy with its settings.

    Raises
    ------
    InputError
        As :func:`component`, or a setting is wrong, or the class fails.
    """
    found = component(kind, name, folders)
    try:
        return found(**settings)
    except FedprivError:
        raise
    except Exception as error:
        raise OwnCodeError(f"{kind}.name = {name!r} cannot be made: {failure(error)}; mend it.") from error


def code_kept(config: Mapping[str, Mapping[str, Any]], more: Mapping[str, Iterable[Any]]) -> dict[str, Any]:
    """Return the section ``[code]`` that a new run keeps: where its code lies, and what its files hold; or nothing.

    Parameters
    ----------
    config : mapping
        By section.
    more : mapping of str to iterable
        Values by key that shall replace those of the configuration, such as those of ``model.name``.
    """
    settings = CodeSettings(**config.get("code", {}))
    used_as = list(_used(config, more, settings.folders))
    found = [one for _, one in used_as]
    if not found:
        return {}
    for file in _changed(settings, used_as):
        _LOG.warning("warning: %s is not what the run of this configuration used; the new run uses it as it is.", file)
    used = [one.folder for one in found if one.folder is not None]
    modules = {name: source for one in found for name, source in one.sources.items()}
    return {
        "path": list(dict.fromkeys(map(str, [*settings.folders, *used]))),
        "modules": {
            name: SourceRecord(file=str(source.file), sha256=source.sha256).model_dump()
            for name, source in sorted(modules.items())
        },
    }


def refuse_changed(config: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse to go on with code that is not what a run was carried out with: what it recorded would be untrue.

    Raises
    ------
    InputError
        A file was changed, or is one that the run did not know.
    """
    settings = CodeSettings(**config.get("code", {}))
    if not settings.modules:
        return
    for file in _changed(settings, _used(config, {}, settings.folders)):
        raise InputError(
            f"{file} is not what this run was started with, so what it says of itself would be untrue; put the file "
            "back as it was, or start a new run in another folder."
        )


def _changed(settings: CodeSettings, found: Iterable[tuple[str, Found]]) -> Iterator[Path]:
    """Yield the files that are not what a run kept of them.

    Metrics change nothing that is published: a run may go on under other ones, and earlier versions kept none.
    """
    for kind, one in found if settings.modules else ():
        may_be_new = kind == "metric" and one.module not in settings.modules
        for name, source in one.sources.items():
            kept = settings.modules.get(name)
            if kept is None and may_be_new:
                continue
            if kept is None or kept.sha256 != source.sha256:
                yield source.file


def _own(kind: str, name: str, known: Mapping[str, Any], folders: Iterable[Path]) -> Found:
    from fedpriv.cohort import ClientAlgorithm
    from fedpriv.strategies import TaskStrategy
    from fedpriv.strategies.server_updates import ServerUpdate

    found = load(kind, name, known, folders)
    if kind == "model":
        _refuse_no_maker(name, found.value)
    elif kind == "server_update":
        subclass_of(ServerUpdate, kind, name, found.value)
    elif kind != "metric":  # which is looked at where it is tried
        subclass_of(ClientAlgorithm if kind == "client" else TaskStrategy, kind, name, found.value)
    return found


def _refuse_no_maker(name: str, found: Any) -> None:
    from fedpriv.models import refuse_no_maker

    refuse_no_maker(name, found)


def _used(
    config: Mapping[str, Mapping[str, Any]], more: Mapping[str, Iterable[Any]], folders: Iterable[Path]
) -> Iterator[tuple[str, Found]]:
    """Yield all own code of a configuration, each with its kind."""
    for kind, name in _named(config, more):
        known = builtin(kind)
        if target(kind, name, known) is not None:
            yield kind, _own(kind, name, known, folders)


def _named(config: Mapping[str, Mapping[str, Any]], more: Mapping[str, Iterable[Any]]) -> Iterator[tuple[str, str]]:
    """Yield each name that a configuration chooses something by, with its kind."""
    for key, kind in _KEYS.items():
        section, _, name = key.partition(".")
        for value in (config.get(section, {}).get(name), *more.get(key, ())):
            several = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else [value]
            yield from ((kind, one) for one in several if isinstance(one, str))
