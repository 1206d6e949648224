"""A certificate authority of its own for a test: servers' and clients' certificates as PEM files."""

import datetime
import ipaddress
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DAY = datetime.timedelta(days=1)
_SIGNS = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


class Files(NamedTuple):
    """A certificate with its key."""

    certificate: Path
    key: Path
    both: Path  # in one file, as Kafka's PEM keystore wants them


class Authority:
    """Signs certificates; `ca` is what those who trust it read."""

    def __init__(self, folder: Path, name: str = "test") -> None:
        self._folder, self._name = folder, name
        folder.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = _named(f"{name} authority")
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        named = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        unsigned = self._unsigned(self._subject, self._key).add_extension(constraints, critical=True)
        unsigned = unsigned.add_extension(named, critical=False).add_extension(_SIGNS, critical=True)
        self.ca = folder / f"{name}-ca.pem"
        self.ca.write_bytes(_pem(unsigned.sign(self._key, hashes.SHA256())))

    def server(self, *hosts: str) -> Files:
        """A certificate of 127.0.0.1, or of other host names."""
        names: list[x509.GeneralName] = [x509.DNSName(host) for host in hosts]
        names = names or [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        return self._issued(f"server-{'-'.join(hosts)}", x509.SubjectAlternativeName(names))

    def client(self, name: str = "client", password: bytes | None = None) -> Files:
        """A certificate that a client shows."""
        return self._issued(name, x509.SubjectAlternativeName([x509.DNSName(name)]), password)

    def _issued(self, name: str, names: x509.SubjectAlternativeName, password: bytes | None = None) -> Files:
        key = ec.generate_private_key(ec.SECP256R1())
        unsigned = self._unsigned(_named(name), key).add_extension(names, critical=False)
        certificate = _pem(unsigned.sign(self._key, hashes.SHA256()))
        hidden: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if password is not None:
            hidden = serialization.BestAvailableEncryption(password)
        secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)
        files = Files(*(self._folder / f"{self._name}-{name}{end}.pem" for end in ("", "-key", "-both")))
        for path, data in zip(files, (certificate, secret, secret + certificate), strict=True):
            path.write_bytes(data)
        return files

    def _unsigned(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _DAY)
            .not_valid_after(now + _DAY)
            # Python 3.13 and later ask for what RFC 5280 does.
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
