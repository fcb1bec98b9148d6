"""Certificates: the demonstration's own short-lived CA, and the check of what the server is given.

The demonstration CA lives for days, is marked by an extension and by its name, and is refused by
every other profile, so that it never ends up in a bank by being forgotten.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from core.errors import SettingsError
from core.settings import ServerSettings, Settings

LIFETIME = datetime.timedelta(days=7)
CLOCK_SKEW = datetime.timedelta(minutes=5)
CA_NAME = "ca"
SERVER_NAME = "server"
MARK_NAME = "jinku demonstration CA - never for production"
# An arc below 2.25 needs no registration: the number is a UUID drawn for this purpose.
MARK_OID = x509.ObjectIdentifier("2.25.211349561285044190725396512031937401187")
LOOPBACK_NAMES = ("localhost",)
LOOPBACK_ADDRESSES = ("127.0.0.1", "::1")


@dataclass(frozen=True)
class CertificateFiles:
    """Where one certificate and its private key lie."""

    certificate: Path
    private_key: Path

    @classmethod
    def named(cls, directory: Path, name: str) -> CertificateFiles:
        return cls(directory / f"{name}.pem", directory / f"{name}.key")


class DemonstrationCa:
    """A CA whose key lies beside its certificates: good for a demonstration, and marked as that."""

    def __init__(self, directory: Path) -> None:
        """Loads the CA of this directory.

        Raises:
            SettingsError: there is none, it cannot be read, or its time is over.
        """
        self.directory = directory
        self.files = CertificateFiles.named(directory, CA_NAME)
        try:
            self._certificate = x509.load_pem_x509_certificate(self.files.certificate.read_bytes())
            key = serialization.load_pem_private_key(self.files.private_key.read_bytes(), None)
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"{directory}: no demonstration CA here ({type(error).__name__}); "
                "`jinkud init --profile demonstration` makes one"
            ) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not is_marked(self._certificate):
            raise SettingsError(f"{self.files.certificate}: is not a demonstration CA of ours")
        self._key = key
        if self._certificate.not_valid_after_utc <= _now():
            raise SettingsError(
                f"{self.files.certificate}: expired on "
                f"{self._certificate.not_valid_after_utc:%Y-%m-%d}; "
                "`jinkud demo-certificate --renew` makes a new CA and new certificates"
            )

    @classmethod
    def create(cls, directory: Path) -> DemonstrationCa:
        """Makes a new CA and the server's certificate, over what was there."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, MARK_NAME)])
        usage = x509.KeyUsage(
            digital_signature=False, content_commitment=False, key_encipherment=False,
            data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
            encipher_only=False, decipher_only=False,
        )  # fmt: skip
        certificate = (
            _builder(name, key.public_key(), _now() + LIFETIME)
            .issuer_name(name)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .add_extension(x509.UnrecognizedExtension(MARK_OID, b"\x05\x00"), critical=False)
            .sign(key, hashes.SHA256())
        )
        _write(CertificateFiles.named(directory, CA_NAME), certificate, key)
        made = cls(directory)
        made._issue(
            SERVER_NAME,
            [
                *(x509.DNSName(name) for name in LOOPBACK_NAMES),
                *(x509.IPAddress(ipaddress.ip_address(a)) for a in LOOPBACK_ADDRESSES),
            ],
            ExtendedKeyUsageOID.SERVER_AUTH,
        )
        return made

    def issue_client(self, kind: str, name: str, uri: str) -> CertificateFiles:
        """A client's certificate, valid for as long as the CA; over one of the same name."""
        subject = [x509.UniformResourceIdentifier(uri)]
        return self._issue(f"{kind}-{name}", subject, ExtendedKeyUsageOID.CLIENT_AUTH)

    def _issue(
        self,
        file_name: str,
        alternatives: list[x509.GeneralName] | list[x509.UniformResourceIdentifier],
        purpose: x509.ObjectIdentifier,
    ) -> CertificateFiles:
        key = ec.generate_private_key(ec.SECP256R1())
        # The holder is the alternative name; the common name says nothing on purpose.
        subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "jinku demonstration")])
        certificate = (
            _builder(subject, key.public_key(), self._certificate.not_valid_after_utc)
            .issuer_name(self._certificate.subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        files = CertificateFiles.named(self.directory, file_name)
        _write(files, certificate, key)
        return files


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePublicKey, not_after: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - CLOCK_SKEW)
        .not_valid_after(not_after)
    )


def _write(
    files: CertificateFiles, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> None:
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    write_private(files.private_key, pem)
    files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def write_private(path: Path, content: bytes) -> None:
    """Writes a file that only its owner ever could read, also while it is written."""
    scratch = path.with_name(f".{path.name}.new")
    scratch.unlink(missing_ok=True)
    handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)


def is_marked(certificate: x509.Certificate) -> bool:
    """Whether this is a demonstration CA or comes from one."""
    marked_name = any(
        attribute.value == MARK_NAME
        for name in (certificate.subject, certificate.issuer)
        for attribute in name.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    )
    return marked_name or any(e.oid == MARK_OID for e in certificate.extensions)


def is_loopback(listen: str) -> bool:
    """Whether host:port can be reached from this machine alone."""
    host = listen.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in LOOPBACK_NAMES


def _load_certificates(path: Path, setting: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"{setting}: {path} cannot be read ({error.strerror})") from None
    except ValueError:
        raise SettingsError(f"{setting}: {path} holds no PEM certificate") from None


def _check_key(server: ServerSettings, certificate: x509.Certificate) -> None:
    path = server.private_key
    try:
        mode = path.stat().st_mode
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise SettingsError(
            f"server.private_key: {path} cannot be read ({error.strerror})"
        ) from None
    except (ValueError, TypeError):
        raise SettingsError(
            f"server.private_key: {path} holds no unencrypted PEM private key"
        ) from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise SettingsError(
            f"server.private_key: others may read {path}; `chmod 600` it, "
            "and replace the key if they could"
        )
    encoding = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    if key.public_key().public_bytes(*encoding) != certificate.public_key().public_bytes(*encoding):
        raise SettingsError(f"server.private_key: {path} is not the key of server.certificate")


def check_server_files(settings: Settings) -> datetime.datetime:
    """Refuses what gRPC would only fail on at the first handshake, and a profile's wrong door.

    Returns when the first of the certificates expires.

    Raises:
        SettingsError: names the setting to change.
    """
    server = settings.server
    own = _load_certificates(server.certificate, "server.certificate")
    roots = _load_certificates(server.client_ca, "server.client_ca")
    _check_key(server, own[0])
    demonstration = settings.realm.profile == "demonstration"
    for setting, certificates in (("server.certificate", own), ("server.client_ca", roots)):
        if not demonstration and any(map(is_marked, certificates)):
            raise SettingsError(
                f"{setting}: comes from a demonstration CA, which the profile "
                f"`{settings.realm.profile}` refuses; use certificates of your own CA"
            )
    if demonstration:
        for setting, listen in (
            ("server.listen", server.listen),
            ("server.metrics_listen", server.metrics_listen),
            ("public.listen", settings.public.listen),
        ):
            if listen and not is_loopback(listen):
                raise SettingsError(
                    f"{setting}: the demonstration profile listens on loopback only "
                    "(127.0.0.1, [::1] or localhost)"
                )
    first_end = min(certificate.not_valid_after_utc for certificate in (own[0], *roots))
    if first_end <= _now():
        renew = "; `jinkud demo-certificate --renew`" if demonstration else ""
        raise SettingsError(
            f"server.certificate or server.client_ca: expired on {first_end:%Y-%m-%d}{renew}"
        )
    return first_end
