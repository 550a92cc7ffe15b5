"""Certificates made for the occasion, in files named as QEMU's `tls-creds-x509` names them."""

from __future__ import annotations

import datetime
import functools
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = datetime.timedelta(days=1)
PLAIN_TEXT = serialization.NoEncryption()


class Authority:
    """A certificate authority; `issue` writes what it signs as QEMU names it."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = (
            self._builder(self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, expired: bool = False
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder(self._name, subject, key.public_key(), x509.random_serial_number())
        return builder.not_valid_before(now - 2 * DAY).not_valid_after(now + (-DAY if expired else DAY))

    def write(self, folder: Path) -> None:
        (folder / "ca-cert.pem").write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, folder: Path, side: str, *, host: str = "localhost", expired: bool = False) -> x509.Certificate:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        names = [x509.DNSName(host), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if side == "server" else ExtendedKeyUsageOID.CLIENT_AUTH
        certificate = (
            self._builder(subject, key, expired=expired)
            .add_extension(x509.SubjectAlternativeName(names if host == "localhost" else names[:1]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        (folder / f"{side}-cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        (folder / f"{side}-key.pem").write_bytes(pem(key))
        return certificate

    def revoke(self, folder: Path, certificate: x509.Certificate) -> None:
        now = datetime.datetime.now(datetime.UTC)
        entry = x509.RevokedCertificateBuilder(certificate.serial_number, now - DAY).build()
        crl = x509.CertificateRevocationListBuilder(self._name, now - DAY, now + DAY, [], [entry])
        signed = crl.sign(self._key, hashes.SHA256())
        (folder / "ca-crl.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))


def pem(key: ec.EllipticCurvePrivateKey, encryption: serialization.KeySerializationEncryption = PLAIN_TEXT) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


@functools.cache
def authority(name: str = "ours") -> Authority:
    return Authority(name)


def both_sides(parent: Path) -> Path:
    """A directory `pki` with certificates for both sides."""
    folder = parent / "pki"
    folder.mkdir()
    authority().write(folder)
    for side in ("server", "client"):
        authority().issue(folder, side)
    return folder
