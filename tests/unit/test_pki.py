"""The cluster's certificates: valid for what they are for, private, and made again only where they must be."""

import datetime
import json
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from localcluster import pki as pki_module
from localcluster.kubeconfig import ensure_admin_kubeconfig
from localcluster.pki import CLIENTS, KSERVE_WEBHOOK, SERVERS, Pki


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    made = Pki(tmp_path / "pki")
    made.ensure()
    return made


def certificate(pki: Pki, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pki.pair(name).certificate.read_bytes())


class TestWhatTheySay:
    @pytest.mark.parametrize("identity", [*SERVERS, *CLIENTS], ids=lambda identity: identity.name)
    def test_each_is_signed_by_the_cluster(self, pki: Pki, identity: pki_module.Identity) -> None:
        certificate(pki, identity.name).verify_directly_issued_by(certificate(pki, "ca"))

    def test_the_webhooks_have_an_authority_of_their_own(self, pki: Pki) -> None:
        certificate(pki, KSERVE_WEBHOOK.name).verify_directly_issued_by(certificate(pki, "kserve-webhook-ca"))
        names = certificate(pki, KSERVE_WEBHOOK.name).extensions.get_extension_for_class(x509.SubjectAlternativeName)
        assert names.value.get_values_for_type(x509.DNSName) == ["kserve-webhook-server-service.kserve.svc"]

    def test_the_apiserver_answers_on_its_addresses(self, pki: Pki) -> None:
        names = certificate(pki, "apiserver").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert {"10.254.0.1", "127.0.0.1", "10.96.0.1"} == {str(a) for a in names.get_values_for_type(x509.IPAddress)}

    def test_only_the_admin_and_the_apiserver_are_masters(self, pki: Pki) -> None:
        masters = set()
        for identity in CLIENTS:
            groups = certificate(pki, identity.name).subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
            if "system:masters" in [group.value for group in groups]:
                masters.add(identity.name)
        assert masters == {"admin", "apiserver-kubelet-client"}

    def test_openssl_takes_each_pair(self, pki: Pki) -> None:
        for identity in (*SERVERS, *CLIENTS, KSERVE_WEBHOOK):
            pair = pki.pair(identity.name)
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(pair.certificate, pair.key)


class TestPrivateKeys:
    def test_are_for_their_owner_only(self, pki: Pki) -> None:
        keys = list(pki.folder.glob("*.key"))
        assert len(keys) == len(SERVERS) + len(CLIENTS) + 4
        assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}

    def test_the_kubeconfig_is_for_its_owner_only_and_stays_so(self, pki: Pki, tmp_path: Path) -> None:
        path = tmp_path / "kubeconfig"
        ensure_admin_kubeconfig(path, pki)
        path.chmod(0o644)
        ensure_admin_kubeconfig(path, pki)
        assert path.stat().st_mode & 0o777 == 0o600
        assert json.loads(path.read_text())["clusters"][0]["cluster"]["server"] == "https://10.254.0.1:6443"


class TestMadeAgainOnlyWhereTheyMustBe:
    def test_a_second_time_makes_nothing(self, pki: Pki) -> None:
        assert pki.ensure() == []

    def test_a_lost_key_is_made_again(self, pki: Pki) -> None:
        pki.pair("kubelet").key.unlink()
        assert pki.ensure() == ["kubelet"]

    def test_a_damaged_certificate_is_made_again(self, pki: Pki) -> None:
        pki.pair("kubelet").certificate.write_text("not a certificate")
        assert pki.ensure() == ["kubelet"]

    def test_a_new_authority_renews_all_that_it_signs(self, pki: Pki) -> None:
        pki.authority.key.unlink()
        made = set(pki.ensure())
        assert made == {"ca"} | {identity.name for identity in (*SERVERS, *CLIENTS)}

    def test_one_that_ends_soon_is_renewed(self, pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pki_module, "RENEW_BEFORE", datetime.timedelta(days=3649))
        assert pki.ensure() == []
        monkeypatch.setattr(pki_module, "RENEW_BEFORE", datetime.timedelta(days=3651))
        assert "apiserver" in pki.ensure()

    def test_another_name_renews_it(self, pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
        renamed = tuple(
            pki_module.Identity(name=i.name, common_name=i.common_name, alternative_names=(*i.alternative_names, "new"))
            if i.name == "apiserver"
            else i
            for i in SERVERS
        )
        monkeypatch.setattr(pki_module, "SERVERS", renamed)
        assert pki.ensure() == ["apiserver"]
