"""Keys and certificates: one authority per deployment, a certificate for its server, a key pair for each node."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedpriv.errors import InputError
from fedpriv.files import replacing, writing

__all__ = [
    "AUTHORITY_DAYS",
    "SERVER_DAYS",
    "expiry",
    "hosts_of",
    "key_pem",
    "key_text",
    "make_authority",
    "make_node_key",
    "make_server_certificate",
    "read_key",
    "signed_by",
]

AUTHORITY_DAYS = 10 * 365
SERVER_DAYS = 397
"""As browsers accept it; `fedpriv deploy renew` makes a new one from the same authority, and nodes need nothing new."""

_BACKDATED = timedelta(hours=1)
"""Clocks of nodes may be behind: a certificate is good from this long before it was made."""


def make_authority(certificate: Path, key: Path) -> None:
    """Make the authority of a deployment: an EC key on P-384 (private file) and its own certificate.

    Raises
    ------
    ComponentFailure
        A file cannot be written.
    """
    secret = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedpriv deployment")])
    made = (
        _begun(name, name, secret.public_key(), AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(secret.public_key()), critical=False)
        .sign(secret, hashes.SHA384())
    )
    _write(key, _private(secret), private=True)
    _write(certificate, made.public_bytes(serialization.Encoding.PEM), private=False)


def make_server_certificate(
    certificate: Path, key: Path, *, authority: tuple[Path, Path], hosts: Sequence[str], days: int = SERVER_DAYS
) -> None:
    """Make a certificate for a server under these names and addresses, signed by the authority (certificate, key).

    The file holds the server's certificate alone; nodes know the authority.

    Raises
    ------
    InputError
        No host is given, or one is neither a name nor an address.
    ComponentFailure
        A file cannot be written.
    """
    if not hosts:
        raise InputError("the server needs at least one name or address that nodes reach it under; give --host.")
    names = [_alternative(host) for host in hosts]
    signer = serialization.load_pem_private_key(authority[1].read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    issuer = x509.load_pem_x509_certificate(authority[0].read_bytes())
    secret = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
    made = (
        _begun(name, issuer.subject, secret.public_key(), days)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(secret.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA384())
    )
    _write(key, _private(secret), private=True)
    _write(certificate, made.public_bytes(serialization.Encoding.PEM), private=False)


def make_node_key(path: Path) -> str:
    """Make a node's key pair (OpenSSH's format, P-384): a private file, and beside it ``.pub``; return the public line.

    Raises
    ------
    ComponentFailure
        A file cannot be written.
    """
    secret = ec.generate_private_key(ec.SECP384R1())
    line = key_text(secret.public_key())
    _write(
        path,
        secret.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        ),
        private=True,
    )
    _write(path.with_name(f"{path.name}.pub"), f"{line}\n".encode(), private=False)
    return line


def key_text(key: ec.EllipticCurvePublicKey) -> str:
    """Return a public key as one line of OpenSSH's format, without a comment."""
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def key_pem(key: ec.EllipticCurvePublicKey) -> bytes:
    """Return a public key as Flower's server tells of its nodes."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def read_key(text: str) -> ec.EllipticCurvePublicKey:
    """Return the public key of a line of OpenSSH's format.

    Raises
    ------
    InputError
        It is none, or none on P-384, the only curve that Flower's server takes.
    """
    try:
        found = serialization.load_ssh_public_key(" ".join(text.split()[:2]).encode())
    except (ValueError, TypeError):
        found = None
    if not isinstance(found, ec.EllipticCurvePublicKey) or not isinstance(found.curve, ec.SECP384R1):
        raise InputError(
            "a node's public key must be one line that begins with 'ecdsa-sha2-nistp384'; `fedpriv deploy request` "
            "makes one."
        )
    return found


def expiry(certificate: Path) -> datetime:
    """Return when a certificate ends, in UTC."""
    return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc


def hosts_of(certificate: Path) -> list[str]:
    """Return the names and addresses that a server's certificate is for."""
    found = x509.load_pem_x509_certificate(certificate.read_bytes())
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(one.value) for one in names]


def signed_by(certificate: Path, authority: Path) -> bool:
    """Tell whether an authority signed a certificate."""
    made = x509.load_pem_x509_certificate(certificate.read_bytes())
    try:
        made.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.read_bytes()))
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _begun(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    labels = host.split(".")
    if not host.isascii() or len(host) > 253 or not all(_is_label(one) for one in labels):
        raise InputError(f"host {host!r} is neither an address nor a name such as lab.example.org; give one of these.")
    return x509.DNSName(host)


def _is_label(text: str) -> bool:
    return 0 < len(text) <= 63 and text.replace("-", "a").isalnum() and text[0] != "-" != text[-1]


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes, *, private: bool) -> None:
    with writing(path), replacing(path, private=private) as file:
        file.write(content)
    if not private:
        path.chmod(0o644)  # the deployment's umask is 077, and this one is for everybody
