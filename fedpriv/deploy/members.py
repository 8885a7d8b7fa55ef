"""Who takes part in a deployment: each node's key, and which tasks of the population it hosts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field

from fedpriv.deploy.certificates import key_pem, key_text, read_key
from fedpriv.errors import InputError
from fedpriv.files import replacing, writing
from fedpriv.names import unknown
from fedpriv.roster import Declared, Roster, fingerprint_of
from fedpriv.settings import Settings

__all__ = ["Member", "Members", "NodeRequest", "kind_of_data"]


class NodeRequest(Settings):
    """What a node's owner sends to whoever runs the server: a public key, who the tasks are, and what kind of data.

    Attributes
    ----------
    name : str
        What the node is called in tables.
    key : str
        Public key, one line of OpenSSH's format; the private one never leaves the node.
    names : tuple of str
        Of its tasks, or what stands for them.
    declared, input_shape, input_dtype, target_shape, num_classes
        Of its data, as :class:`fedpriv.roster.Roster` has them.
    """

    called = "request"

    name: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    key: str
    names: tuple[str, ...] = Field(min_length=1)
    declared: Declared
    input_shape: tuple[int, ...]
    input_dtype: str
    target_shape: tuple[int, ...] = ()
    num_classes: int | None = None
    format: Literal[1] = 1

    @classmethod
    def of(cls, name: str, key: str, roster: Roster) -> Self:
        """Return the request of a node with these tasks."""
        kind = {field: getattr(roster, field) for field in _KIND}
        return cls(name=name, key=key, names=roster.names, **kind)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a request's file.

        Raises
        ------
        InputError
            It cannot be read, or is no request.
        """
        return cls(**_json(path, "request"))

    def write(self, path: Path) -> None:
        """Write the request, atomically; it holds names and a public key, so it is private to its owner's account."""
        with writing(path), replacing(path, private=True) as file:
            file.write(self.model_dump_json(indent=2).encode())


_KIND = ("declared", "input_shape", "input_dtype", "target_shape", "num_classes")


def kind_of_data(roster: Roster) -> str:
    """Return what kind of data a population has, as text: who says the same has data that fit."""
    values = roster.model_dump(mode="json")
    return ", ".join(f"{field} {json.dumps(values[field])}" for field in _KIND)


class Member(Settings):
    """One node of a deployment.

    Attributes
    ----------
    name, key
        As :class:`NodeRequest` has them.
    first, count : int
        Which ids of the population it hosts.
    fingerprint : str
        Over the names of these tasks.
    """

    name: str
    key: str
    first: int = Field(ge=0)
    count: int = Field(ge=1)
    fingerprint: str


class Members(Settings):
    """The nodes of a deployment and their population; a change is a new version, which a run begins with.

    Attributes
    ----------
    version : int
        Goes up with every change.
    nodes : tuple of Member
        In the order of their tasks.
    roster : Roster or None
        Who the tasks are; None until the first node is approved, where none was given.
    fixed : bool
        Whether the roster was given beforehand: nodes find their place in it, and bring no tasks of their own.
    """

    version: int = 0
    nodes: tuple[Member, ...] = ()
    roster: Roster | None = None
    fixed: bool = False
    format: Literal[1] = 1

    @classmethod
    def of_roster(cls, path: Path) -> Self:
        """Return a population that is known beforehand, from a roster's file; no node is a member yet."""
        return cls(roster=Roster.read(path), fixed=True)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the file.

        Raises
        ------
        InputError
            It cannot be read.
        """
        found = _json(path, "list of members")
        roster = found.get("roster")
        nodes = [Member(**node) for node in found.pop("nodes", [])]
        return cls(**found | {"nodes": nodes, "roster": None if roster is None else Roster(**roster)})

    def write(self, path: Path) -> None:
        """Write the file, atomically and private."""
        with writing(path), replacing(path, private=True) as file:
            file.write(self.model_dump_json(indent=1).encode())

    def approved(self, request: NodeRequest, dataset: str) -> Self:
        """Return the next version, with a node more; the charges of the population stay.

        Raises
        ------
        InputError
            The node, its key or one of its tasks is a member already, or its data are of another kind.
        """
        line = key_text(read_key(request.key))
        for node in self.nodes:
            if node.name == request.name:
                raise InputError(
                    f"a node named {request.name!r} is a member already; if its key was lost, remove it first with "
                    f"`fedpriv deploy remove-node`, else choose another name."
                )
            if node.key == line:
                raise InputError(f"node {node.name!r} has this key already; make one key for each node.")
        if self.roster is not None:
            for field in _KIND:
                mine, theirs = getattr(request, field), getattr(self.roster, field)
                if mine != theirs:
                    raise InputError(
                        f"node {request.name!r} has data with {field} {mine!r}, and the population's is {theirs!r}; "
                        "give all nodes data of one kind."
                    )
        if self.fixed and self.roster is not None:
            first, roster = self.roster.place(request.names), self.roster
            for node in self.nodes:
                if first < node.first + node.count and node.first < first + len(request.names):
                    raise InputError(
                        f"node {node.name!r} hosts some of the tasks of {request.name!r} already; a task lies on one "
                        "node."
                    )
        else:
            before = () if self.roster is None else self.roster.names
            first = len(before)
            kind = {field: getattr(request, field) for field in _KIND}
            roster = Roster(dataset=dataset, names=(*before, *request.names), **kind)
            roster.check()
        node = Member(
            name=request.name,
            key=line,
            first=first,
            count=len(request.names),
            fingerprint=fingerprint_of(request.names),
        )
        nodes = tuple(sorted((*self.nodes, node), key=lambda one: one.first))
        return self.model_copy(update={"version": self.version + 1, "nodes": nodes, "roster": roster})

    def without(self, name: str) -> Self:
        """Return the next version, without a node; where it brought its tasks, they leave the population.

        Raises
        ------
        InputError
            No node has this name, or it is the last one of a population that nodes made.
        """
        found = self.named(name)
        nodes = tuple(node for node in self.nodes if node is not found)
        update: dict[str, Any] = {"version": self.version + 1, "nodes": nodes}
        if not self.fixed and self.roster is not None:
            if not nodes:
                raise InputError(f"{name!r} is the only node; approve another one first, or make a new deployment.")
            last = found.first + found.count
            names = (*self.roster.names[: found.first], *self.roster.names[last:])
            update["roster"] = self.roster.model_copy(update={"names": names})
            update["nodes"] = tuple(
                node if node.first < found.first else node.model_copy(update={"first": node.first - found.count})
                for node in nodes
            )
        return self.model_copy(update=update)

    def named(self, name: str) -> Member:
        """Return the node of this name.

        Raises
        ------
        InputError
            There is none.
        """
        found = next((node for node in self.nodes if node.name == name), None)
        if found is None:
            raise InputError(unknown("node", name, [node.name for node in self.nodes]))
        return found

    def by_key(self) -> dict[bytes, Member]:
        """Return the nodes by what Flower's server tells of a node: its public key."""
        return {key_pem(read_key(node.key)): node for node in self.nodes}


def _json(path: Path, what: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"the {what} {path} cannot be read ({error}); give the path of one.") from None
    if not isinstance(found, dict):
        raise InputError(f"the {what} {path} is damaged: it holds a {type(found).__name__}; have it written again.")
    return found
