"""The cluster's certificates: one authority for the cluster, one for KServe's webhooks, and a key for service accounts.

Everything lies in one folder, keys 0600. A certificate is made again when it is about to end, when its authority or what
it must say has changed; nothing else touches it, so that a second `up` restarts nothing.
"""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from localcluster.paths import APISERVER_SERVICE_ADDRESS, CLUSTER_DOMAIN, HOST_ADDRESS, NODE_NAME

LIFETIME = datetime.timedelta(days=3650)
RENEW_BEFORE = datetime.timedelta(days=30)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a certificate says: the user (common name) and groups (organizations) of a client, or a server's names."""

    name: str
    common_name: str
    organizations: tuple[str, ...] = ()
    alternative_names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class KeyPair:
    """Where a certificate and its private key lie."""

    certificate: Path
    key: Path


SERVERS = (
    Identity(
        name="apiserver",
        common_name="kube-apiserver",
        alternative_names=(
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            f"kubernetes.default.svc.{CLUSTER_DOMAIN}",
            NODE_NAME,
            "localhost",
            "127.0.0.1",
            HOST_ADDRESS,
            APISERVER_SERVICE_ADDRESS,
        ),
    ),
    Identity(name="etcd", common_name="etcd", alternative_names=("localhost", "127.0.0.1")),
    Identity(name="kubelet-server", common_name=NODE_NAME, alternative_names=(NODE_NAME, HOST_ADDRESS)),
)
CLIENTS = (
    Identity(name="admin", common_name="llm-serving-admin", organizations=("system:masters",)),
    Identity(name="apiserver-etcd-client", common_name="kube-apiserver"),
    Identity(name="apiserver-kubelet-client", common_name="kube-apiserver", organizations=("system:masters",)),
    Identity(name="kube-controller-manager", common_name="system:kube-controller-manager"),
    Identity(name="kube-scheduler", common_name="system:kube-scheduler"),
    Identity(name="kubelet", common_name=f"system:node:{NODE_NAME}", organizations=("system:nodes",)),
    Identity(name="kube-proxy", common_name="system:kube-proxy"),
    Identity(name="coredns", common_name="system:coredns"),
    Identity(name="traefik", common_name="system:traefik"),
)
KSERVE_WEBHOOK_HOST = "kserve-webhook-server-service.kserve.svc"
KSERVE_WEBHOOK = Identity(
    name="kserve-webhook", common_name=KSERVE_WEBHOOK_HOST, alternative_names=(KSERVE_WEBHOOK_HOST,)
)


class Pki:
    """The certificates of one cluster, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def pair(self, name: str) -> KeyPair:
        return KeyPair(certificate=self.folder / f"{name}.crt", key=self.folder / f"{name}.key")

    @property
    def authority(self) -> KeyPair:
        return self.pair("ca")

    @property
    def webhook_authority(self) -> KeyPair:
        return self.pair("kserve-webhook-ca")

    @property
    def service_account_key(self) -> Path:
        return self.folder / "service-account.key"

    @property
    def service_account_public_key(self) -> Path:
        return self.folder / "service-account.pub"

    def ensure(self) -> list[str]:
        """Makes what is missing, ends soon or says something else than it must; returns the names of what it made."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        made = [name for name in ("ca", "kserve-webhook-ca") if self._ensure_authority(name)]
        made += [i.name for i in SERVERS if self._ensure_signed(i, self.authority, ExtendedKeyUsageOID.SERVER_AUTH)]
        made += [i.name for i in CLIENTS if self._ensure_signed(i, self.authority, ExtendedKeyUsageOID.CLIENT_AUTH)]
        if self._ensure_signed(KSERVE_WEBHOOK, self.webhook_authority, ExtendedKeyUsageOID.SERVER_AUTH):
            made.append(KSERVE_WEBHOOK.name)
        if not (self.service_account_key.exists() and self.service_account_public_key.exists()):
            key = ec.generate_private_key(ec.SECP256R1())
            public = key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            self.service_account_public_key.write_bytes(public)
            write_private(self.service_account_key, _private_pem(key))
            made.append("service-account")
        return made

    def _ensure_authority(self, name: str) -> bool:
        pair = self.pair(name)
        if (existing := _load(pair)) is not None and _lasts(existing):
            return False
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(Identity(name=name, common_name=f"llm-serving-local-{name}"))
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=True,
            crl_sign=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        certificate = (
            _builder(subject, subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        _store(pair, key, certificate)
        return True

    def _ensure_signed(self, identity: Identity, authority: KeyPair, usage: x509.ObjectIdentifier) -> bool:
        pair = self.pair(identity.name)
        issuer = x509.load_pem_x509_certificate(authority.certificate.read_bytes())
        issuer_key = serialization.load_pem_private_key(authority.key.read_bytes(), None)
        if not isinstance(issuer_key, ec.EllipticCurvePrivateKey):
            raise TypeError(f"{authority.key} is not an elliptic curve key")
        issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
        names = x509.SubjectAlternativeName([_general_name(name) for name in identity.alternative_names])
        existing = _load(pair)
        if existing is not None and _lasts(existing) and _says(existing, identity, issuer_id, names):
            return False
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            _builder(_name(identity), issuer.subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(issuer_id, critical=False)
        )
        if identity.alternative_names:
            builder = builder.add_extension(names, critical=False)
        _store(pair, key, builder.sign(issuer_key, hashes.SHA256()))
        return True


def write_private(path: Path, content: bytes) -> None:
    """Writes a file that only its owner can read, at no moment otherwise; an older one is replaced whole."""
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    draft.write_bytes(content)
    draft.replace(path)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + LIFETIME)
    )


def _name(identity: Identity) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in identity.organizations]
    return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, identity.common_name)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _load(pair: KeyPair) -> x509.Certificate | None:
    try:
        if not pair.key.exists():
            return None
        return x509.load_pem_x509_certificate(pair.certificate.read_bytes())
    except (OSError, ValueError):
        return None


def _lasts(certificate: x509.Certificate) -> bool:
    return certificate.not_valid_after_utc - RENEW_BEFORE > datetime.datetime.now(datetime.UTC)


def _says(
    certificate: x509.Certificate,
    identity: Identity,
    issuer_id: x509.AuthorityKeyIdentifier,
    names: x509.SubjectAlternativeName,
) -> bool:
    extensions: Sequence[object] = [extension.value for extension in certificate.extensions]
    return (
        certificate.subject == _name(identity)
        and issuer_id in extensions
        and (names in extensions) == bool(identity.alternative_names)
    )


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _store(pair: KeyPair, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
    write_private(pair.key, _private_pem(key))
    pair.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
