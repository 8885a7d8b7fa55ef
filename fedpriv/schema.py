"""A JSON schema of configurations, for editors: what may stand in a TOML file, made from the classes that read it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import CoreSchema

from fedpriv.components import KINDS, builtin, known_settings
from fedpriv.config import run_keys
from fedpriv.own_code import CodeSettings, offered

__all__ = ["config_schema"]

Schema = dict[str, Any]
_NUMBER: Schema = {"type": "number"}
_TEXT: Schema = {"type": "string"}
_TEXTS: Schema = {"type": "object", "additionalProperties": _TEXT}
_TARGET: dict[str, Schema] = {
    # One per public group may be given, too.
    "epsilon": {"anyOf": [_NUMBER, {"type": "object", "additionalProperties": _NUMBER}]},
    "delta": _NUMBER,
    "relation": {"type": "string"},
}
_DEFAULT = {"model": "mlp", "client": "mean-regularized", "strategy": "billboard"}


class _Lenient(GenerateJsonSchema):
    """Takes anything where a setting is an object that no TOML file can hold."""

    def handle_invalid_for_json_schema(self, schema: CoreSchema, error_info: str) -> JsonSchemaValue:  # noqa: ARG002
        return {}

    def emit_warning(self, kind: Any, detail: str) -> None:
        """Say nothing of a default that JSON cannot hold."""


def config_schema() -> Schema:
    """Return the schema of a configuration file (JSON Schema, draft 2020-12).

    Code of users' own is known by its colon; its settings are not looked at.
    """
    from fedpriv.adversary import Watch

    shared: dict[str, Schema] = {}
    sections = {kind: _by_name(kind, shared) for kind in KINDS}
    sections["data"] = _data(shared)
    sections["run"] = _closed(_run(shared))
    sections["attack"] = _closed(_fields(Watch, shared))
    sections["code"] = _closed(_fields(CodeSettings, shared))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A configuration of fedpriv",
        "type": "object",
        "properties": sections,
        "additionalProperties": False,
        "required": ["data"],
        "$defs": shared,
    }


def _fields(kind: type[BaseModel], shared: dict[str, Schema]) -> dict[str, Schema]:
    """Return the schema of each setting of a class; ``shared`` gets what they refer to."""
    made = kind.model_json_schema(schema_generator=_Lenient)
    shared |= made.pop("$defs", {})
    return dict(made.get("properties", {}))


def _closed(properties: Mapping[str, Schema]) -> Schema:
    return {"type": "object", "properties": dict(properties), "additionalProperties": False}


def _name(known: Iterable[str], more: Iterable[str] = ()) -> Schema:
    return {"anyOf": [{"enum": sorted(known)}, {"enum": sorted(more)}, {"type": "string", "pattern": ":"}]}


def _if(key: str, value: str, then: Schema, *, default: bool = False) -> Schema:
    """Return the rule for one value of a key, which also holds without the key if it is the default."""
    required: Schema = {} if default else {"required": [key]}
    return {"if": {"properties": {key: {"const": value}}, **required}, "then": then}


def _by_name(kind: str, shared: dict[str, Schema]) -> Schema:
    """Return the schema of a section whose ``name`` chooses a class."""
    known = builtin(kind)
    rules = []
    for name, one in known.items():
        fields = _fields(one, shared)
        allowed: dict[str, Schema] = {key: fields.get(key, {}) for key in known_settings(kind, name)}
        if "target" in allowed:
            del allowed["target"]
            allowed |= _TARGET
        then = _closed({"name": {}, **allowed})
        if "server_update" in allowed:
            allowed["server_update"] = {"type": "string"}
            own = {**_closed({"name": {}, **allowed}), "patternProperties": {"^server_": {}}}  # its settings, too
            named = {"required": ["server_update"], "properties": {"server_update": {"pattern": ":"}}}
            then = {"if": named, "then": own, "else": _closed({"name": {}, **allowed})}
        rules.append(_if("name", name, then, default=name == _DEFAULT[kind]))
    return {"type": "object", "properties": {"name": _name(known, offered(kind))}, "allOf": rules}


def _run(shared: dict[str, Schema]) -> dict[str, Schema]:
    from fedpriv.experiment import Experiment

    fields = _fields(Experiment, shared)
    return {
        **{key: fields.get(key, {}) for key in sorted(run_keys() - {"budget", "policy"})},
        **{f"budget_{key}": value for key, value in _TARGET.items()},
        "declared": {"enum": ["benchmark", "protected"]},
        "metrics": {"anyOf": [_TEXT, {"type": "array", "items": _TEXT}, _TEXTS]},
        "reproduce": {"type": "integer"},
    }


def _data(shared: dict[str, Schema]) -> Schema:
    """Return the schema of ``[data]``: the keys of each data set by name."""
    from fedpriv.data import OwnFile
    from fedpriv.data.options import data_classes, partition_names

    known = data_classes()
    rules = []
    for name, classes in known.items():
        fields = {key: field for one in reversed(classes) for key, field in _fields(one, shared).items()}
        if len(classes) > 1:
            fields["partition"] = {"enum": partition_names()}
        rules.append(_if("name", name, _closed({"name": {}, **fields})))
    rules.append({"if": {"required": ["file"]}, "then": _closed(_fields(OwnFile, shared))})
    names: Schema = {"name": {"enum": sorted(known)}, "file": {"type": "string"}}
    return {
        "type": "object",
        "properties": names,
        "oneOf": [{"required": [key]} for key in names],
        "allOf": rules,
    }
