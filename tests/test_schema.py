"""The JSON schema of configurations: it takes every preset and the file of a run, and no misspelled key."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from jsonschema import Draft202012Validator

from fedpriv.scenarios import scenarios
from fedpriv.schema import config_schema

PRESETS = {f"{name} {preset}": path for name, one in scenarios().items() for preset, path in one.presets.items()}


@pytest.fixture(scope="module")
def schema() -> Draft202012Validator:
    Draft202012Validator.check_schema(config_schema())
    return Draft202012Validator(config_schema())


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_valid_and_none_of_its_keys_may_be_misspelled(schema: Any, preset: str) -> None:
    config = tomllib.loads(PRESETS[preset].read_text(encoding="utf-8"))
    schema.validate(config)
    for section, values in config.items():
        assert not schema.is_valid(
            {**{key: one for key, one in config.items() if key != section}, f"{section}s": values}
        )
        for key, value in values.items():
            others = {name: one for name, one in values.items() if name != key}
            assert not schema.is_valid({**config, section: {**others, f"{key}s": value}}), key


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        *[("strategy", "clipping_norm", "big"), ("strategy", "rounds", 0), ("strategy", "sampling_rate", 1.5)],
        *[("client", "learning_rate", -1.0), ("client", "name", "mean-regularised"), ("model", "name", "linaer")],
        *[("run", "dtype", "float16"), ("run", "declared", "secret"), ("data", "partition", "dirichlett")],
        *[("client", "inner_steps", 3), ("strategy", "server_momentun", 0.5), ("attack", "games", 0)],
        *[("run", "metrics", [3]), ("strategy", "server_update", 3)],
    ],
)
def test_values_out_of_bounds_are_underlined(schema: Any, section: str, key: str, value: Any) -> None:
    """Also a setting of another class than the one that is named."""
    config = tomllib.loads(PRESETS["pmtl digits"].read_text(encoding="utf-8"))
    with pytest.raises(jsonschema.ValidationError):
        schema.validate({**config, section: {**config.get(section, {}), key: value}})


def test_what_may_be_set_may_be_written(schema: Any) -> None:
    config = tomllib.loads(PRESETS["pmtl digits"].read_text(encoding="utf-8"))
    for section, values in (
        ("strategy", {"epsilon": {"a": 1.0, "b": 2.0}, "server_update": "sgd", "server_learning_rate": 1.0}),
        ("client", {"name": "myfl:Ditto", "anything": 3}),
        ("model", {"name": "mynet:MyNet", "width": 3}),
        ("code", {"path": ["../shared"]}),
        ("strategy", {"server_update": "mystep:Mine", "server_pull": 0.5}),
        ("run", {"metrics": ["auc", "mymeasures:gini"]}),
        ("run", {"metrics": {"mine": "mymeasures:gini"}}),
        ("run", {"budget_epsilon": 3.0, "reproduce": 3, "population": "clinic", "ledger": "clinic.sqlite"}),
    ):
        kept = {} if "name" in values else config.get(section, {})
        schema.validate({**config, section: {**kept, **values}})


def test_the_command_writes_what_editors_read(fedpriv: Any, tmp_path: Path) -> None:
    words = ["--set=strategy.rounds=1", "--set=data.tasks=20", "--set=run.grid=in-process", "--set=run.report=false"]
    assert fedpriv("run", "pmtl", *words, "--out", "run")[0] == 0
    code, out, err = fedpriv("schema", "--out", "fedpriv.schema.json")
    assert (code, err) == (0, "")
    assert '"#:schema ./fedpriv.schema.json"' in out
    written = json.loads((tmp_path / "fedpriv.schema.json").read_text())
    assert json.loads(fedpriv("schema")[1]) == written
    Draft202012Validator(written).validate(tomllib.loads((tmp_path / "run/config.toml").read_text()))
