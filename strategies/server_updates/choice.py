"""Server updates by name, with their settings beside them, as configurations have them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fedpriv.errors import FedprivError, InputError, OwnCodeError
from fedpriv.names import kebab, unknown
from fedpriv.own_code import failure, load, subclass_of
from fedpriv.strategies import server_updates
from fedpriv.strategies.server_updates.sgd import SGD
from fedpriv.strategies.server_updates.update import ServerUpdate

__all__ = ["KIND", "PREFIX", "builtin_updates", "flat", "known_settings", "update_named", "with_update"]

KIND = "server_update"
"""What code of users' own is called that is one."""

PREFIX = "server_"
"""What stands before the settings of an update where they stand beside those of a strategy."""


def builtin_updates() -> dict[str, type[ServerUpdate]]:
    """Return fedpriv's own updates by name."""
    public = {kebab(name): getattr(server_updates, name) for name in server_updates.__all__}
    return {key: one for key, one in public.items() if issubclass(one, ServerUpdate) and not one.__abstractmethods__}


def update_named(name: Any, folders: Iterable[Path] | None = None) -> type[ServerUpdate]:
    """Return the class that a name stands for.

    Parameters
    ----------
    name : Any
        As it was typed: one of fedpriv's own, or ``module:Name``.
    folders : iterable of Path or None
        Where code of users' own is looked up, as :func:`fedpriv.own_code.load` does.

    Raises
    ------
    InputError
        There is none, or it is no such class.
    """
    known = builtin_updates()
    if not isinstance(name, str):
        raise InputError(unknown(KIND, str(name), known))
    if name in known:
        return known[name]
    found: type[ServerUpdate] = subclass_of(ServerUpdate, KIND, name, load(KIND, name, known, folders).value)
    return found


def _settings(update: type[ServerUpdate]) -> set[str]:
    return {f"{PREFIX}{field}" for field in update.model_fields}


def known_settings(name: Any, folders: Iterable[Path] | None = None) -> set[str]:
    """Return the settings of one update, as they stand beside those of a strategy; those of fedpriv's own for None.

    Raises
    ------
    InputError
        As :func:`update_named`.
    """
    if name is None:
        return {setting for one in builtin_updates().values() for setting in _settings(one)}
    return _settings(update_named(name, folders))


def with_update(values: Mapping[str, Any], fields: Iterable[str]) -> dict[str, Any]:
    """Return the keywords of a strategy with its server update as an object, if it is given by name.

    Parameters
    ----------
    values : mapping
        Keywords of the strategy; ``server_update`` may be a name, with its settings beside it.
    fields : iterable of str
        Settings of the strategy itself.

    Raises
    ------
    InputError
        There is no such update, or it has no such setting.
    """
    own = set(fields)
    beside = [key for key in values if key.startswith(PREFIX) and key not in own]
    chosen = values.get("server_update", "sgd")
    if not beside and not isinstance(chosen, str):
        return dict(values)
    if not isinstance(chosen, str):
        raise InputError(
            f"{beside[0]!r} stands beside a server_update that was made already; give it to that: "
            f"{type(chosen).__name__}({beside[0].removeprefix(PREFIX)}=...)."
        )
    update = update_named(chosen)
    mine = _settings(update)
    anybodys = mine | known_settings(None)
    for key in beside:
        if key not in anybodys:
            raise InputError(unknown("setting", key, own | mine))
        if key not in mine:
            others = " or ".join(repr(name) for name, one in sorted(builtin_updates().items()) if key in _settings(one))
            raise InputError(f"{key!r} belongs to server_update={others}, got {chosen!r}; leave it out.")
    try:
        made = update(**{key.removeprefix(PREFIX): values[key] for key in beside})
    except FedprivError:
        raise
    except Exception as error:
        raise OwnCodeError(f"server_update={chosen!r} cannot be made: {failure(error)}; mend it.") from error
    return {key: value for key, value in values.items() if key not in beside} | {"server_update": made}


def flat(update: ServerUpdate) -> dict[str, Any]:
    """Return an update as keywords of its strategy; plain SGD, which has no settings, as none."""
    if update == SGD():
        return {}
    settings = {f"{PREFIX}{key}": value for key, value in update.model_dump(mode="json").items()}
    return {"server_update": kebab(type(update).__name__), **settings}
