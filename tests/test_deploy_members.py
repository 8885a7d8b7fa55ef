"""Who takes part in a deployment, its keys and certificates, and the folder of its server."""

from __future__ import annotations

import ipaddress
import os
import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from helpers import toy_tasks

from fedpriv.deploy.certificates import (
    AUTHORITY_DAYS,
    SERVER_DAYS,
    expiry,
    hosts_of,
    key_pem,
    make_authority,
    make_node_key,
    make_server_certificate,
    read_key,
    signed_by,
)
from fedpriv.deploy.layout import ServerFolder, ServerSettings, make_server_folder
from fedpriv.deploy.members import Members, NodeRequest
from fedpriv.errors import InputError
from fedpriv.roster import Roster, fingerprint_of


@pytest.fixture(scope="module")
def keys(tmp_path_factory: Any) -> list[str]:
    folder = tmp_path_factory.mktemp("keys")
    return [make_node_key(folder / f"{number}.key") for number in range(4)]


def asks(name: str, key: str, names: tuple[str, ...], **changes: Any) -> NodeRequest:
    roster = toy_tasks(1).roster.model_copy(update={"names": names, "declared": "protected"})
    return NodeRequest.of(name, key, roster).model_copy(update=changes)


def test_members_come_and_go_as_versions_of_one_population(keys: list[str], tmp_path: Path) -> None:
    first = Members().approved(asks("a", keys[0], ("ann", "ben")), "lab")
    second = first.approved(asks("b", keys[1], ("cleo",)), "lab")
    third = second.approved(asks("c", keys[2], ("dee", "eve")), "lab")
    assert third.roster is not None
    assert third.roster.names == ("ann", "ben", "cleo", "dee", "eve")
    assert [(node.name, node.first, node.count) for node in third.nodes] == [("a", 0, 2), ("b", 2, 1), ("c", 3, 2)]
    assert third.nodes[2].fingerprint == fingerprint_of(("dee", "eve"))
    gone = third.without("b")
    assert gone.roster is not None
    assert gone.roster.names == ("ann", "ben", "dee", "eve")
    assert [(node.name, node.first) for node in gone.nodes] == [("a", 0), ("c", 2)]
    assert [members.version for members in (first, second, third, gone)] == [1, 2, 3, 4]
    gone.write(tmp_path / "members.json")
    assert Members.read(tmp_path / "members.json") == gone
    assert stat.S_IMODE((tmp_path / "members.json").stat().st_mode) == 0o600
    assert gone.by_key().keys() == {key_pem(read_key(keys[0])), key_pem(read_key(keys[2]))}
    back = gone.approved(asks("b", keys[3], ("cleo",)), "lab")  # whose key was lost
    assert back.nodes[-1].first == 4


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"name": "a"}, "is a member already"),
        ({"key": 0}, "has this key already"),
        ({"names": ("ben",)}, "more than once"),
        ({"num_classes": 7}, "num_classes 7"),
        ({"declared": "benchmark"}, "declared 'benchmark'"),
        ({"input_shape": (9,)}, "input_shape"),
        ({"key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ"}, "ecdsa-sha2-nistp384"),
    ],
)
def test_a_request_that_does_not_fit_is_refused(keys: list[str], change: dict[str, Any], why: str) -> None:
    members = Members().approved(asks("a", keys[0], ("ann", "ben")), "lab")
    key = change.pop("key", keys[1])
    asked = asks(change.pop("name", "b"), keys[key] if isinstance(key, int) else key, change.pop("names", ("cleo",)))
    with pytest.raises(InputError, match=why):
        members.approved(asked.model_copy(update=change), "lab")


def test_nodes_find_their_place_in_a_roster_that_was_given(keys: list[str]) -> None:
    roster: Roster = toy_tasks(6).roster
    members = Members(roster=roster, fixed=True)
    like = {"declared": roster.declared}
    with_late = members.approved(asks("late", keys[0], roster.names[4:6], **like), "lab")
    both = with_late.approved(asks("early", keys[1], roster.names[0:3], **like), "lab")
    assert [(node.name, node.first) for node in both.nodes] == [("early", 0), ("late", 4)]
    assert both.roster == roster
    with pytest.raises(InputError, match="hosts some of the tasks"):
        both.approved(asks("twice", keys[2], roster.names[2:4], **like), "lab")
    with pytest.raises(InputError, match="not in the roster"):
        both.approved(asks("other", keys[2], ("nobody",), **like), "lab")
    assert both.without("late").roster == roster, "its tasks stay and count as zero"


def test_the_last_node_of_a_population_that_nodes_made_stays(keys: list[str]) -> None:
    members = Members().approved(asks("a", keys[0], ("ann",)), "lab")
    with pytest.raises(InputError, match="is the only node"):
        members.without("a")
    with pytest.raises(InputError, match="did you mean 'a'"):
        members.without("aa")


def test_certificates_are_of_one_authority_for_named_hosts_and_a_limited_time(tmp_path: Path) -> None:
    authority = (tmp_path / "ca.crt", tmp_path / "ca.key")
    make_authority(*authority)
    certificate, key = tmp_path / "server.crt", tmp_path / "server.key"
    hosts = ["lab.example.org", "10.0.0.7", "::1"]
    make_server_certificate(certificate, key, authority=authority, hosts=hosts)
    assert hosts_of(certificate) == hosts
    assert signed_by(certificate, authority[0])
    now = datetime.now(UTC)
    for path, days in ((certificate, SERVER_DAYS), (authority[0], AUTHORITY_DAYS)):
        assert abs(expiry(path) - now - timedelta(days=days)) < timedelta(minutes=5)
        assert x509.load_pem_x509_certificate(path.read_bytes()).not_valid_before_utc < now - timedelta(minutes=30)
    for path in (authority[1], key):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    other = tmp_path / "other.crt", tmp_path / "other.key"
    make_authority(*other)
    assert not signed_by(certificate, other[0])
    ssl.create_default_context(cafile=str(authority[0]))
    found = x509.load_pem_x509_certificate(certificate.read_bytes())
    assert not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address(one) for one in hosts[1:]]


@pytest.mark.parametrize("host", ["", "a b", "-x.org", "x..org", "http://x.org", "ä.org", "x" * 300])
def test_a_host_that_is_neither_name_nor_address_is_refused(tmp_path: Path, host: str) -> None:
    authority = (tmp_path / "ca.crt", tmp_path / "ca.key")
    make_authority(*authority)
    with pytest.raises(InputError, match="neither an address nor a name"):
        make_server_certificate(tmp_path / "s.crt", tmp_path / "s.key", authority=authority, hosts=[host])
    assert not (tmp_path / "s.key").exists()


def test_a_server_s_folder_is_private_and_is_not_made_twice(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        settings = ServerSettings(hosts=("127.0.0.1",))
        folder = make_server_folder(tmp_path / "lab", settings, {"model": {"name": "mlp"}, "data": {}}, Members())
    finally:
        os.umask(old)
    public = {folder.authority[0], folder.certificate[0]}
    for path in [folder.path, *folder.path.rglob("*")]:
        expected = 0o700 if path.is_dir() else 0o644 if path in public else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == expected, path
    assert folder.settings() == settings
    assert folder.members() == Members()
    assert "data" not in folder.plan.read_text()
    with pytest.raises(InputError, match="not empty"):
        make_server_folder(tmp_path / "lab", settings, {}, Members())
    with pytest.raises(InputError, match="is no deployment"):
        ServerFolder(tmp_path / "none").settings()
