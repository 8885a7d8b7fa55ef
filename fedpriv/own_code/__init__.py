"""Code of users' own, by name: ``mynet:MyNet`` from a file beside a configuration, or what a package offers."""

from fedpriv.own_code.finding import Found, failure, load, named, put_on_path, subclass_of, target
from fedpriv.own_code.installed import Offer, offered
from fedpriv.own_code.settings import CodeSettings, SourceRecord
from fedpriv.own_code.sources import Source, imported, refuse_other_sources

__all__ = [
    "CodeSettings",
    "Found",
    "Offer",
    "Source",
    "SourceRecord",
    "failure",
    "imported",
    "load",
    "named",
    "offered",
    "put_on_path",
    "refuse_other_sources",
    "subclass_of",
    "target",
]
