"""The folder of a deployment's server: where everything lies, and how it is made."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import tomli_w
from pydantic import Field

from fedpriv.deploy.certificates import make_authority, make_server_certificate
from fedpriv.deploy.members import Members
from fedpriv.errors import InputError
from fedpriv.files import private_directory, replacing, writing
from fedpriv.settings import Settings

__all__ = ["ServerFolder", "ServerSettings", "make_server_folder", "own_umask", "renew_certificate"]


class ServerSettings(Settings):
    """``deploy.toml``: what the operator of a server decides.

    Attributes
    ----------
    hosts : list of str
        Names and addresses that nodes reach the server under; its certificate is for these.
    port : int
        Of the front, which nodes speak to.
    inner_port : int
        Of the SuperLink, on this machine alone.
    listen : str
        Address of this machine that the front listens on.
    largest_body_mebibytes : float
        Largest message that the front lets pass.
    longest_request_seconds : float
        How long the front waits for a request to arrive, first its headers, then its body.
    """

    called: ClassVar[str] = "deploy.toml"

    hosts: tuple[str, ...] = Field(min_length=1)
    port: int = Field(default=8443, ge=1, le=65535)
    inner_port: int = Field(default=8010, ge=1, le=65535)
    listen: str = "0.0.0.0"  # noqa: S104 (nodes come from elsewhere; the front is made for it)
    largest_body_mebibytes: float = Field(default=64.0, gt=0)
    longest_request_seconds: float = Field(default=60.0, gt=0)


@dataclass(frozen=True)
class ServerFolder:
    """Paths in the folder of a deployment's server."""

    path: Path

    @property
    def settings_path(self) -> Path:
        """The operator's settings."""
        return self.path / "deploy.toml"

    @property
    def plan(self) -> Path:
        """The configuration of the runs, without data."""
        return self.path / "plan.toml"

    @property
    def members_path(self) -> Path:
        """Who takes part."""
        return self.path / "members.json"

    @property
    def authority(self) -> tuple[Path, Path]:
        """Certificate and key of the authority; the first is what nodes get."""
        return self.path / "pki" / "ca.crt", self.path / "pki" / "ca.key"

    @property
    def certificate(self) -> tuple[Path, Path]:
        """Certificate and key of the server."""
        return self.path / "pki" / "server.crt", self.path / "pki" / "server.key"

    @property
    def secret(self) -> Path:
        """What proves to the SuperLink that somebody may take runs."""
        return self.path / "pki" / "runs.secret"

    @property
    def database(self) -> Path:
        """The SuperLink's."""
        return self.path / "state" / "superlink.db"

    @property
    def home(self) -> Path:
        """Flower's own folder."""
        return self.path / "state" / "flower"

    @property
    def app(self) -> Path:
        """The bundle that Flower asks for; it holds no code, and no node of ours opens it."""
        return self.path / "state" / "app"

    @property
    def logs(self) -> Path:
        """What processes say."""
        return self.path / "logs"

    @property
    def ledger(self) -> Path:
        """What was spent."""
        return self.path / "ledger.sqlite"

    @property
    def runs(self) -> Path:
        """Run folders."""
        return self.path / "runs"

    def settings(self) -> ServerSettings:
        """Read the operator's settings.

        Raises
        ------
        InputError
            There are none, or one is wrong.
        """
        import tomllib

        try:
            return ServerSettings(**tomllib.loads(self.settings_path.read_text(encoding="utf-8")))
        except OSError as error:
            raise InputError(
                f"{self.path} is no deployment ({error.strerror}: deploy.toml); make one with `fedpriv deploy init`."
            ) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{self.settings_path} is not valid TOML: {error}.") from None

    def members(self) -> Members:
        """Read who takes part."""
        return Members.read(self.members_path)


_APP = """\
[project]
name = "fedpriv-deployed"
version = "1.0.0"
dependencies = []

[tool.flwr.app]
publisher = "fedpriv"

[tool.flwr.app.components]
serverapp = "fedpriv.deploy.stock:server"
clientapp = "fedpriv.deploy.stock:client"

[tool.flwr.app.config]
fedpriv = ""
"""


def make_server_folder(
    path: Path, settings: ServerSettings, config: dict[str, dict[str, Any]], members: Members
) -> ServerFolder:
    """Make the folder of a deployment's server: settings, plan, members, authority, certificate, secret.

    Raises
    ------
    InputError
        The folder is there already and holds something.
    ComponentFailure
        It cannot be written.
    """
    if path.exists() and any(path.iterdir()):
        raise InputError(f"{path} is there already and not empty; choose another folder for a deployment.")
    folder = ServerFolder(path)
    for part in (path, path / "pki", path / "state", folder.home, folder.app, folder.logs, folder.runs):
        private_directory(part)
    make_authority(*folder.authority)
    renew_certificate(folder, settings.hosts)
    _write(folder.secret, secrets.token_bytes(32))
    _write(folder.settings_path, tomli_w.dumps(settings.model_dump()).encode())
    _write(folder.plan, tomli_w.dumps({name: values for name, values in config.items() if values}).encode())
    _write(folder.app / "pyproject.toml", _APP.encode())
    members.write(folder.members_path)
    return folder


def renew_certificate(folder: ServerFolder, hosts: Iterable[str]) -> None:
    """Make the server's certificate anew, for these names and addresses; nodes know the authority, which stays.

    Raises
    ------
    InputError
        A host is neither a name nor an address, or the authority's files are not there.
    ComponentFailure
        A file cannot be written.
    """
    if not all(path.is_file() for path in folder.authority):
        raise InputError(
            f"{folder.path}: the authority's certificate and key are not there; restore the folder 'pki' from a copy."
        )
    # The front and the server's part of a run reach Flower's server under this machine's own address.
    names = list(dict.fromkeys([*hosts, "127.0.0.1"]))
    make_server_certificate(*folder.certificate, authority=folder.authority, hosts=names)


def _write(path: Path, content: bytes) -> None:
    with writing(path), replacing(path, private=True) as file:
        file.write(content)


def own_umask() -> None:
    """Let what this process and its children make be for its owner alone: Flower makes its files for everybody."""
    os.umask(0o077)
