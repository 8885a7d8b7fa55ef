"""The file of a node's owner: data, policy, server, code. A node imports and reads nothing else."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field

from fedpriv.errors import InputError
from fedpriv.names import unknown
from fedpriv.privacy.policy import NodePolicy
from fedpriv.roster import Declared
from fedpriv.settings import Settings

if TYPE_CHECKING:
    from fedpriv.cohort.tasks import Tasks

__all__ = ["Allowed", "OwnerFile", "ServerPlace", "state_folder"]


def state_folder(file: Path) -> Path:
    """Return where a node keeps its journal and its account: beside its owner's file, by the name of that file."""
    return file.with_suffix(".journal")


class ServerPlace(Settings):
    """The one server that a node speaks to.

    Attributes
    ----------
    address : str
        Host and port, as its certificate names the host.
    authority : str
        File of the authority's certificate, which whoever runs the server hands out; relative to the owner's file.
    """

    called: ClassVar[str] = "server"

    address: str = Field(pattern=r"^[^/\s]+:\d+$")
    authority: str = "ca.crt"


class Allowed(Settings):
    """What a server may ask this node to compute.

    Attributes
    ----------
    models, clients : list of str
        Names of fedpriv's own or of installed packages, or ``module:Name`` of code in ``code``; all of fedpriv's own
        unless given. A name that is not here is never imported.
    code : list of str
        Folders of the owner's own modules, relative to the owner's file.
    rows : bool
        Whether the server may ask for one row per task without noise of the node: it then sees single updates.
    populations : list of str or None
        Whose runs; None is all of this server's.
    """

    called: ClassVar[str] = "allow"

    models: tuple[str, ...] | None = None
    clients: tuple[str, ...] | None = None
    code: tuple[str, ...] = ()
    rows: bool = False
    populations: tuple[str, ...] | None = None


class OwnerFile(Settings):
    """What the owner of a node decides.

    Attributes
    ----------
    name : str
        What the node is called on the server.
    declared : {"benchmark", "protected"}
        What its data are.
    server : ServerPlace
        Whom it speaks to.
    data : dict
        As the section ``[data]`` of a run: where its tasks come from.
    part : tuple of int, or None
        First and last task of ``data`` that lie on this node, the last one not included: to try a deployment with
        several nodes on one data set. None is all.
    policy : NodePolicy
        What it grants, over the whole life of its data.
    allow : Allowed
        What it computes.
    """

    called: ClassVar[str] = "node"

    name: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    declared: Declared
    server: ServerPlace
    data: dict[str, Any]
    part: tuple[int, int] | None = None
    policy: NodePolicy = Field(default_factory=NodePolicy)
    allow: Allowed = Field(default_factory=Allowed)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read an owner's TOML file; paths in it begin at its folder.

        Raises
        ------
        InputError
            It cannot be read, is not TOML, or a key is unknown or wrong.
        """
        try:
            found = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(
                f"{path} cannot be read ({error.strerror}); give the path of a node's TOML file."
            ) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is not valid TOML: {error}.") from None
        for section in found:
            if section not in cls.model_fields:
                raise InputError(unknown("section", section, cls.model_fields))
        if not isinstance(found.get("data", {}), dict):
            raise InputError("[data] must be a section, with file = ... and what its reader needs.")
        file = found.get("data", {}).get("file")
        if isinstance(file, str) and file.strip():
            found["data"]["file"] = str((path.parent / Path(file).expanduser()).absolute())
        parts: dict[str, type[Settings]] = {"server": ServerPlace, "policy": NodePolicy, "allow": Allowed}
        for name, kind in parts.items():
            if name in found:
                found[name] = kind(**found[name])
        return cls(**found)

    def tasks(self, data_dir: Path | None = None) -> Tasks:
        """Load the node's tasks; nothing of them leaves this process but by an answer.

        Raises
        ------
        InputError
            As the reader of the data.
        """
        from fedpriv.config import tasks_of

        found: Tasks = tasks_of(self.data, data_dir, self.declared)
        if self.part is None:
            return found
        first, last = self.part
        if not 0 <= first < last <= len(found):
            raise InputError(
                f"node: 'part' must name a first and a last of the {len(found)} tasks, such as [0, 5], got "
                f"{[first, last]}."
            )
        return replace(found.shard(first, last), first=0)
