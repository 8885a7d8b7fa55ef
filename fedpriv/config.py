"""Configuration: dotted keys in sections, read once at the edge, turned into frozen objects.

The keys of ``[client]`` and ``[strategy]`` are the keywords of the class that ``name`` chooses, those of ``[run]`` are
keywords of :class:`fedpriv.experiment.Experiment`, and those of ``[data]`` go to ``load`` and ``partition``, or with
``file`` to a reader of data of one's own (:class:`fedpriv.data.OwnFile`). An ``[attack]`` section, if there is one,
puts a malicious server beside the run (:class:`fedpriv.adversary.Watch`); a ``[code]`` section says where code of
users' own lies (:class:`fedpriv.own_code.CodeSettings`).
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedpriv.errors import InputError
from fedpriv.names import unknown

if TYPE_CHECKING:
    from fedpriv.experiment import Experiment
    from fedpriv.own_code import CodeSettings
    from fedpriv.roster import Declared, Roster

__all__ = [
    "SECTIONS",
    "Config",
    "apply",
    "build_experiment",
    "completed",
    "parse_assignments",
    "parse_value",
    "read_own",
    "read_toml",
    "run_keys",
    "started_anew",
    "tasks_of",
]

Config = dict[str, dict[str, Any]]
SECTIONS = ("data", "model", "client", "strategy", "run", "attack", "code")
_OPTIONAL = ("attack", "code")
_REPLACED = {
    **{"noise_multiplier": "epsilon", "epsilon": "noise_multiplier"},
    **{"clipping_norms": "clipping_norm", "clipping_norm": "clipping_norms"},
}
"""Settings of [strategy] by the one that replaces them: the noise itself for a target, norms of groups for one norm."""
_FEW_SHOT = "few-shot"
_TARGET = ("epsilon", "delta", "relation")


def read_toml(path: Path) -> Config:
    """Read a configuration file.

    Raises
    ------
    InputError
        The file is missing, is not TOML, or has an unknown section.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give the path of a TOML file.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid TOML: {error}.") from None
    for section, values in found.items():
        if section not in SECTIONS or not isinstance(values, dict):
            raise InputError(unknown("section", section, SECTIONS))
    config = {
        section: dict(found.get(section, {})) for section in SECTIONS if section not in _OPTIONAL or section in found
    }
    return _own_data(config, path.parent)


def _own_data(config: Config, folder: Path) -> Config:
    """Return the configuration with an absolute ``data.file``, from the folder on, and dates beside it as text."""
    file = config["data"].get("file")
    if isinstance(file, str) and file.strip():
        config["data"] = {key: _dates_as_text(value) for key, value in config["data"].items()}
        config["data"]["file"] = str((folder / Path(file).expanduser()).absolute())
    return config


def _dates_as_text(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _dates_as_text(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_dates_as_text(one) for one in value]
    return value.isoformat() if isinstance(value, date) else value


def read_own(path: Path) -> Config:
    """Read a configuration file of a user's own: modules are looked up beside it first, and its ledger lies there.

    Raises
    ------
    InputError
        As :func:`read_toml`.
    """
    config = read_toml(path)
    code = _code(config)
    beside = [] if code.modules else [path.parent]  # a run's file says it already
    folders = [*beside, *(path.parent / place for place in code.path)]
    config["code"] = {**config.get("code", {}), "path": [str(folder.resolve()) for folder in folders]}
    # A run that an earlier version began may have kept a path as it is seen from where it was begun.
    of_run = path.name == "config.toml" and any(
        (path.parent / name).exists() for name in ("checkpoints", "summary.json")
    )
    return config if of_run else _own_ledger(config, path.parent)


def _own_ledger(config: Config, folder: Path) -> Config:
    """Return the configuration with an absolute ``run.ledger``: people spend one budget, wherever a run is begun."""
    ledger = config["run"].get("ledger")
    if isinstance(ledger, str) and ledger.strip():
        config["run"] = {**config["run"], "ledger": str(folder.resolve() / ledger)}
    return config


def started_anew(config: Config, more: Mapping[str, Iterable[Any]] | None = None) -> Config:
    """Return the configuration of a new run, with all that it keeps about code of users' own.

    Parameters
    ----------
    config : dict
        Of a file or preset; what another run kept about its code is forgotten.
    more : mapping of str to iterable, optional
        Values by key that shall replace those of the configuration in some runs.
    """
    from fedpriv.components import code_kept

    kept = code_kept(config, more or {})
    return {**{key: values for key, values in config.items() if key != "code"}, **({"code": kept} if kept else {})}


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Turn ``["client.strength=0.5"]`` into ``{"client.strength": 0.5}``; values are TOML, else plain text.

    Raises
    ------
    InputError
        An assignment without ``=``.
    """
    parsed = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--set needs key=value, got {text!r}; for example --set strategy.epsilon=2.")
        parsed[key.strip()] = parse_value(value.strip())
    return parsed


def parse_value(text: str) -> Any:
    """Read a value as TOML, or else as plain text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def apply(config: Config, assignments: Mapping[str, Any]) -> Config:
    """Return the configuration with dotted keys replaced.

    A new ``name`` in ``[client]``, ``[strategy]`` or ``[model]`` keeps only settings that the new class knows; a new
    ``data.partition`` or ``strategy.server_update``, too. ``data.file`` replaces a data set by name, and the other way
    round; a relative path, or one of ``run.ledger``, begins at the folder where the command is typed.

    Raises
    ------
    InputError
        A key without a section, or with an unknown one.
    """
    result = {section: dict(values) for section, values in config.items()}
    for key, value in assignments.items():
        section, dot, name = key.partition(".")
        if section not in SECTIONS or not dot or not name:
            known = [f"{section}." for section in SECTIONS]
            raise InputError(unknown("key", key, known) if not dot else unknown("section", section, SECTIONS))
        if key == "data.partition":
            options = _data_options(result["data"].get("name"), value)
            result["data"] = {old: kept for old, kept in result["data"].items() if old in options}
        if key == "data.file":
            options = _own_file_options() - (
                {"groups"} if "name" in result["data"] else set()
            )  # there a number of them
            result["data"] = {old: kept for old, kept in result["data"].items() if old in options}
        if key == "data.name" and "file" in result["data"]:
            result["data"] = {old: kept for old, kept in result["data"].items() if old not in _own_file_options()}
        if key == "strategy.server_update":
            folders, before = _folders(result), result["strategy"].get("server_update")
            dropped = _update_settings(None) | _update_settings(before, folders)
            dropped -= _update_settings(value, folders)
            result["strategy"] = {old: kept for old, kept in result["strategy"].items() if old not in dropped}
        if (
            name == "name"
            and value != result.get(section, {}).get("name")
            and section in ("client", "strategy", "model")
        ):
            from fedpriv.components import known_settings

            allowed = {"name"} | known_settings(section, str(value), _folders(result))
            if "server_update" in allowed:  # whose settings stay beside it
                allowed |= _update_settings(result[section].get("server_update"), _folders(result))
            result[section] = {old: kept for old, kept in result[section].items() if old in allowed}
        result.setdefault(section, {})[name] = value
        if section == "strategy":
            result[section].pop(_REPLACED.get(name, ""), None)
    if "run.ledger" in assignments:
        result = _own_ledger(result, Path())
    return _own_data(result, Path())


def completed(config: Config, described: Mapping[str, Any]) -> Config:
    """Add every default to a configuration (:meth:`fedpriv.Experiment.describe`): a run folder shall say them all."""
    merged = {section: dict(values) for section, values in config.items()}
    if "code" in merged:
        merged["code"] |= described.get("code", {})
    for section in ("model", "client", "strategy", "run"):
        known = {key: value for key, value in described[section].items() if key not in ("target", "budget")}
        merged[section] = {**known, **merged[section]}
    return {section: {k: v for k, v in values.items() if v is not None} for section, values in merged.items()}


def _code(config: Config) -> CodeSettings:
    from fedpriv.own_code import CodeSettings

    return CodeSettings(**config.get("code", {}))


def _folders(config: Config) -> tuple[Path, ...]:
    return _code(config).folders


def _update_settings(name: Any, folders: Iterable[Path] | None = None) -> set[str]:
    from fedpriv.strategies.server_updates.choice import known_settings

    return known_settings(name, folders)


def _own_file_options() -> set[str]:
    from fedpriv.data.own_file import OwnFile

    return set(OwnFile.model_fields)


def _data_options(name: Any, partition: Any) -> set[str]:
    from fedpriv.data.dataset import Partition
    from fedpriv.data.fewshot import FewShot
    from fedpriv.data.loading import load_options
    from fedpriv.data.schemes import scheme_options

    if partition == _FEW_SHOT:
        return {"name", "partition"} | set(FewShot.model_fields) | load_options(str(name))
    common = {"name", "partition"} | set(Partition.model_fields)
    return common | load_options(str(name)) | scheme_options(str(partition))


def run_keys() -> set[str]:
    """Return the keys of ``[run]`` that an experiment takes."""
    from fedpriv.experiment import Experiment

    return set(Experiment.model_fields) - {"tasks", "held_out", "model", "client", "strategy"}


def build_experiment(config: Config, data_dir: Path | None = None, roster: Roster | None = None) -> Experiment:
    """Turn a configuration into an experiment; everything is checked before any work starts.

    Parameters
    ----------
    config : dict
        Sections of settings.
    data_dir : Path or None
        Where data sets lie; ``$FEDPRIV_DATA`` unless given.
    roster : Roster or None
        Who the tasks are, for a server without data: nothing is loaded then.

    Raises
    ------
    InputError
        A name, key or value is wrong.
    """
    from fedpriv.components import component, find_all, made, refuse_changed
    from fedpriv.data import NATURAL
    from fedpriv.experiment import Experiment, ModelSettings
    from fedpriv.privacy.target import Target

    client, strategy, run, model = (dict(config[name]) for name in ("client", "strategy", "run", "model"))
    folders = _folders(config)
    refuse_changed(config)
    client_name, strategy_name = client.pop("name", "mean-regularized"), strategy.pop("name", "billboard")
    client_class = component("client", client_name, folders)
    component("strategy", strategy_name, folders)  # before what is wrong with its settings
    find_all(config, folders)
    if isinstance(per_group := strategy.get("epsilon"), dict):
        if not per_group or not all(isinstance(one, int | float) for one in per_group.values()):
            raise InputError(f"strategy.epsilon must be a number, or a table of one per group, got {per_group!r}.")
        strategy["group_epsilons"] = per_group
        strategy["epsilon"] = max(per_group.values())
    if "epsilon" in strategy:
        strategy["target"] = Target(**{key: strategy.pop(key) for key in _TARGET if key in strategy})
    budget = {key: run.pop(f"budget_{key}") for key in _TARGET if f"budget_{key}" in run}
    if budget:
        run["budget"] = Target(**budget)
    if "ledger" in run and (not isinstance(run["ledger"], str) or not run["ledger"]):
        raise InputError(f"run.ledger must be the path of a file, got {run['ledger']!r}.")
    for key in ("seed", "reproduce"):
        if isinstance(run.get(key, 0), bool) or not isinstance(run.get(key, 0), int):
            raise InputError(f"run.{key} must be a whole number, got {run[key]!r}.")
    run.pop("reproduce", None)  # of the run, not of the experiment
    declared = run.pop("declared", None)
    known = run_keys()
    for key in run:
        if key not in known:
            raise InputError(unknown("key", f"run.{key}", [f"run.{name}" for name in known | {"declared"}]))
    if config["data"].get("partition") == _FEW_SHOT and "shots" in client_class.model_fields:
        client.setdefault("shots", config["data"].get("shots", 1))  # held-out people learn from as many
    client_object = made("client", client_name, client, folders)
    strategy_object = made("strategy", strategy_name, strategy, folders)
    name = model.pop("name", "mlp")
    component("model", name, folders)
    if declared == "protected" and config["data"].get("drop_unusable"):
        raise InputError(
            "data.drop_unusable looks at the data to decide who takes part, so it is for public benchmarks only; "
            "leave it out, and choose the tasks of a protected population beforehand."
        )
    if declared == "protected" and config["data"].get("name") in NATURAL:
        raise InputError(
            f"tasks of {config['data']['name']!r} are left out where they are small, a rule that looks at the data, so "
            "it is for public benchmarks only; build a protected population in Python, its tasks chosen beforehand."
        )
    if declared not in (None, "benchmark", "protected"):
        raise InputError(f"run.declared must be 'benchmark' or 'protected', got {declared!r}.")
    tasks: Any = roster
    held_out = None
    if roster is None:
        tasks, held_out = _tasks(dict(config["data"]), run.get("seed", 0), data_dir, declared)
        tasks = tasks if declared in (None, tasks.declared) else replace(tasks, declared=declared)
    elif declared not in (None, roster.declared):
        raise InputError(
            f"run.declared is {declared!r} and the roster's tasks are declared {roster.declared!r}; give both the same."
        )
    experiment = Experiment(
        tasks=tasks,
        held_out=held_out,
        model=ModelSettings(name=name, settings=model),
        client=client_object,
        strategy=strategy_object,
        **run,
    )
    _refuse_other_start(experiment, config)
    if not config.get("attack"):
        return experiment
    from fedpriv.adversary import Watch, with_watch

    return with_watch(experiment, Watch(**config["attack"]))


def _refuse_other_start(experiment: Experiment, config: Config) -> None:
    """Refuse a model of users' own that starts from other values than the run did, such as those of another file."""
    kept = _code(config).initial
    if kept is not None and experiment.problem().digest != kept:
        raise InputError(
            f"the model {config['model']['name']!r} does not start from the values of this run's start; give "
            "it the files and the version of torch of then, or start a new run."
        )


def tasks_of(data: Mapping[str, Any], data_dir: Path | None, declared: Declared) -> Any:
    """Return the tasks (:class:`fedpriv.Tasks`) that a section ``[data]`` describes; what it says of a seed is its own.

    Raises
    ------
    InputError
        A key is wrong, or the data are.
    """
    found = _tasks(dict(data), 0, data_dir, declared)[0]
    return found if found.declared == declared else replace(found, declared=declared)


def _tasks(data: dict[str, Any], seed: int, data_dir: Path | None, declared: Declared | None) -> tuple[Any, Any]:
    """Return the population, and the people held out (None unless tasks are few-shot tasks)."""
    from fedpriv.data import NATURAL, FewShot, few_shot, kept, load, natural_tasks, own_tasks, synthetic_tasks
    from fedpriv.data.loading import load_options
    from fedpriv.data.synthetic import SYNTHETIC

    if "file" in data:
        if "name" in data:
            raise InputError(
                "data.file is a file of your own and data.name a data set that is known; give only one of the two."
            )
        own = {"seed": seed, **data}
        return kept(("tasks", own, declared), lambda: own_tasks(own, declared)), None
    if "name" not in data:
        raise InputError(
            "data.name is required, or data.file for data of your own; `fedpriv list datasets` shows what there is."
        )
    place = str(data_dir.resolve()) if data_dir else None
    drawn = {"seed": seed, **data}
    if data["name"] in SYNTHETIC:
        return kept(("tasks", drawn), lambda: synthetic_tasks(**drawn)), None
    if data["name"] in NATURAL:
        return kept(("tasks", place, drawn), lambda: natural_tasks(data_dir=data_dir, **drawn)), None
    loading = {key: data.pop(key) for key in load_options(str(data["name"])) if key in data}
    name = data.pop("name")
    scheme = data.pop("partition", "dirichlet")
    if not isinstance(scheme, str) or "scheme" in data:
        raise InputError(f"data.partition must name a partition scheme, got {data.get('scheme', scheme)!r}.")
    source = ("data set", name, place, loading)
    settings = {"seed": seed, **data}
    wanted = FewShot(**settings) if scheme == _FEW_SHOT else None

    def make() -> tuple[Any, Any]:
        found = kept(source, lambda: load(name, data_dir, **loading))
        return (found.partition(scheme, **settings), None) if wanted is None else few_shot(found, wanted)

    made: tuple[Any, Any] = kept(("tasks", *source[1:], scheme, settings), make)
    return made
