"""The fleet's CA: who gets a certificate, who gets another one, and who gets none."""

from __future__ import annotations

import base64
import json
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit import signing
from edgevit.errors import BadArtifact, EdgeVitError, FleetError, UnknownName, UsageError
from edgevit.fleet.bus.messages import BadMessage, Placement, parse
from edgevit.fleet.trust import authority, ca, identity, renewal
from edgevit.fleet.trust.certificates import der, read_key, request
from edgevit.fleet.trust.identity import Identity, open_identity
from edgevit.fleet.trust.renewal import Renewal, RenewalRequest, Renewals, renewal_request, take_renewal
from edgevit.fleet.trust.signatures import check_placement, sign_placement, trusted_keys

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
LATER = NOW + timedelta(days=5)  # two thirds of a week are over
PLACED = {
    "name": "digits",
    "kind": "bundle",
    "revision": "a" * 64,
    "release": "b" * 64,
    "epoch": 3,
    "nodes": {"pi-1": ("part-0", "part-1"), "pi-2": ("part-2",)},
}  # fmt: skip


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEVIT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def fleet(home: Path) -> Path:
    ca.init_ca(now=NOW)
    return home / "fleet"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def read(folder: Path, now: datetime = NOW) -> Identity:
    return open_identity(folder, now=now)


def renew(folder: Path, renewals: Renewals | None = None, now: datetime = LATER) -> Identity:
    """The whole exchange, without a bus."""
    found = read(folder, now)
    asked = renewal_request(found, now=now).encode()
    take_renewal(found, (renewals or Renewals()).answer(asked, now=now)[1])
    return read(folder, now)


# --- making it ----------------------------------------------------------------------------------------------------


def test_a_ca_is_readable_by_nobody_else_and_not_replaced_unless_told(fleet: Path) -> None:
    assert mode(fleet) == mode(fleet / "ca") == 0o700
    assert mode(fleet / "ca" / "ca.key") == mode(fleet / "ca" / "issued.json") == 0o600
    before = (fleet / "ca" / "ca.key").read_bytes()
    with pytest.raises(UsageError, match="holds a CA already"):
        ca.init_ca(now=NOW)
    assert (fleet / "ca" / "ca.key").read_bytes() == before
    ca.init_ca(force=True, now=NOW)
    assert (fleet / "ca" / "ca.key").read_bytes() != before
    assert [path.name for path in fleet.iterdir()] == ["ca"]


def test_an_identity_is_a_private_folder_whose_parts_fit(fleet: Path) -> None:
    made = ca.enroll("pi-1", hosts=["192.168.1.5", "pi.example.org"], now=NOW)
    assert made.folder == fleet / "identities" / "pi-1"
    assert mode(made.folder) == 0o700
    assert mode(made.folder / "key.pem") == 0o600
    assert {path.name for path in made.folder.iterdir()} == {
        "key.pem", "cert.pem", "ca.pem", "trusted.json", "node.json"
    }  # fmt: skip
    found = read(made.folder)
    assert (found.name, found.role, found.ends) == ("pi-1", "node", NOW + timedelta(days=7))
    assert abs(found.renewed_at - (NOW + timedelta(days=7 * 2 / 3))) < timedelta(minutes=5)
    certificate = found.certificate
    assert certificate.subject.rfc4514_string() == "CN=node"
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["pi-1", "pi-1.local", "localhost", "pi.example.org"]
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1", "192.168.1.5"]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert made.record() == {
        "node": "pi-1", "role": "node", "identity": str(made.folder), "ends": "2026-11-28T12:00:00+00:00",
        "hosts": ["192.168.1.5", "pi.example.org"],
    }  # fmt: skip


def test_a_name_is_taken_while_its_certificate_lasts_and_free_afterwards(fleet: Path) -> None:
    ca.enroll("pi-1", now=NOW)
    with pytest.raises(UsageError, match="pi-1 is enrolled already, as node") as caught:
        ca.enroll("pi-1", now=NOW)
    assert "--force" in (caught.value.hint or "")
    assert ca.enroll("pi-1", now=NOW + timedelta(days=8)).ends == NOW + timedelta(days=15)


@pytest.mark.parametrize("name", ["", "-pi", "pi/1", "pi*", "a" * 65, "pi 1", "pi_1", "pi-", "pi..1", "../pi", "é"])
def test_a_name_that_is_no_host_name_is_refused(fleet: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be"):
        ca.enroll(name, now=NOW)
    assert not (fleet / "identities").exists()


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"role": "root"}, "unknown role 'root'"),
        ({"days": 0.0}, "cannot live for 0 days"),
        ({"days": 1000.0}, "cannot live for 1000 days"),
        ({"days": float("nan")}, "cannot live for nan days"),
        ({"hosts": ["a b"]}, "neither an IP address nor a host name"),
        ({"trusted": {"abc": "me"}}, "64 hex digits"),
    ],
)
def test_what_no_certificate_can_have_is_refused(fleet: Path, given: dict[str, object], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        ca.enroll("pi-1", now=NOW, **given)  # type: ignore[arg-type]
    assert authority.open_ca(now=NOW).issued().nodes == {}


def test_a_folder_of_something_else_is_never_replaced(fleet: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(UsageError, match="not an identity folder"):
        ca.enroll("pi-1", out=tmp_path / "photos", force=True, now=NOW)
    ca.enroll("pi-1", out=tmp_path / "one", now=NOW)
    with pytest.raises(UsageError, match="the identity of pi-1"):
        ca.enroll("pi-2", out=tmp_path / "one", force=True, now=NOW)
    assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"cat"
    assert list(authority.open_ca(now=NOW).issued().nodes) == ["pi-1"]


def test_a_certificate_never_outlives_its_ca(home: Path) -> None:
    ca.init_ca(days=3, now=NOW)
    assert ca.enroll("pi-1", now=NOW).ends == NOW + timedelta(days=3)


def test_commands_at_the_same_time_lose_nothing(fleet: Path) -> None:
    code = "import sys; from edgevit.fleet.trust import ca; [ca.enroll(f'{sys.argv[1]}{n}') for n in range(8)]"
    ca.init_ca(force=True)
    several = [subprocess.Popen([sys.executable, "-c", code, name]) for name in ("a", "b", "c")]
    assert [one.wait(60) for one in several] == [0, 0, 0]
    assert len(authority.open_ca().issued().nodes) == 24


# --- what is wrong with a folder ----------------------------------------------------------------------------------


def test_without_a_ca_the_next_step_is_named(home: Path) -> None:
    for command in (partial(ca.enroll, "pi-1"), partial(ca.revoke, "pi-1"), ca.rotate, authority.open_ca):
        with pytest.raises(FleetError, match="there is no fleet CA") as caught:
            command()
        assert "edgevit fleet ca init" in (caught.value.hint or "")


def test_a_ca_past_its_end_says_so(fleet: Path) -> None:
    with pytest.raises(FleetError, match="ended on 2036-11-18") as caught:
        ca.enroll("pi-1", now=NOW + timedelta(days=4000))
    assert caught.value.hint == "edgevit fleet ca rotate"


def test_a_clock_that_is_behind_is_named(fleet: Path) -> None:
    made = ca.enroll("pi-1", now=NOW)
    with pytest.raises(FleetError, match=r"begins on .* this machine's clock says 1970-01-01") as caught:
        open_identity(made.folder, now=datetime(1970, 1, 1, tzinfo=UTC))
    assert "set the clock" in (caught.value.hint or "")


def test_an_ended_certificate_and_a_wrong_role_say_what_to_do(fleet: Path) -> None:
    made = ca.enroll("pi-1", now=NOW)
    with pytest.raises(FleetError, match="ended on 2026-11-28") as caught:
        read(made.folder, NOW + timedelta(days=8))
    assert "edgevit enroll pi-1 --force" in (caught.value.hint or "")
    with pytest.raises(FleetError, match="the identity of a node, and a router is started"):
        open_identity(made.folder, role="router", now=NOW)
    operator = ca.enroll("boss", "operator", now=NOW).folder
    assert open_identity(operator, role="client", now=NOW).role == "operator"


@pytest.mark.parametrize("file", ["ca.key", "ca.pem", "issued.json"])
@pytest.mark.parametrize(
    "content", [None, b"", b"{}x", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"]
)
def test_a_damaged_ca_is_said_and_not_replaced(fleet: Path, file: str, content: bytes | None) -> None:
    damaged = fleet / "ca" / file
    damaged.unlink() if content is None else damaged.write_bytes(content)
    with pytest.raises(EdgeVitError, match=r"is not a CA folder|issued\.json"):
        ca.enroll("pi-1", now=NOW)
    assert (damaged.read_bytes() if damaged.exists() else None) == content


def test_the_key_of_another_ca_is_noticed(fleet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEVIT_HOME", str(tmp_path / "other"))
    ca.init_ca(now=NOW)
    (tmp_path / "other" / "fleet" / "ca" / "ca.key").write_bytes((fleet / "ca" / "ca.key").read_bytes())
    with pytest.raises(FleetError, match=r"ca\.key is not of ca\.pem"):
        ca.enroll("pi-1", now=NOW)


@pytest.mark.parametrize("file", ["key.pem", "cert.pem", "ca.pem", "node.json"])
def test_an_identity_put_together_from_two_is_refused(fleet: Path, file: str, tmp_path: Path) -> None:
    made = ca.enroll("pi-1", now=NOW).folder
    (made / file).write_bytes(b"nothing")
    with pytest.raises(FleetError, match="is not an identity folder"):
        read(made)
    (made / file).unlink()
    with pytest.raises(FleetError, match="is not an identity folder"):
        read(made)
    if file == "ca.pem":
        ca.init_ca(force=True, now=NOW)
    other = ca.enroll("pi-2", now=NOW).folder
    (made / file).write_bytes((other / file).read_bytes())
    with pytest.raises(FleetError, match=r"put together from two|does not fit"):
        read(made)


def test_a_folder_that_is_not_there_is_no_traceback(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="cannot be opened"):
        open_identity(tmp_path / "nowhere")


# --- renewal ------------------------------------------------------------------------------------------------------


def test_a_renewed_certificate_has_another_key_and_the_same_name_role_and_hosts(fleet: Path) -> None:
    made = ca.enroll("pi-1", "router", hosts=["10.0.0.9"], days=7, now=NOW)
    before = read(made.folder)
    after = renew(made.folder)
    assert after.ends == LATER + timedelta(days=7)
    assert after.certificate.public_key() != before.certificate.public_key()
    assert after.certificate.subject == before.certificate.subject
    san = x509.SubjectAlternativeName
    assert after.certificate.extensions.get_extension_for_class(san) == before.certificate.extensions.get_extension_for_class(san)  # noqa: E501 # fmt: skip
    assert mode(made.folder / "key.pem") == 0o600
    assert not (made.folder / "next").exists()


def test_a_revoked_name_is_not_renewed_and_its_end_is_said(fleet: Path) -> None:
    made = ca.enroll("pi-1", now=NOW)
    said = ca.revoke("pi-1", now=LATER)
    assert said.ends == made.ends
    assert "2026-11-28 12:00:00 UTC" in said.lines()[0]
    assert "rotate" in said.lines()[1]
    with pytest.raises(FleetError, match="pi-1 was revoked on 2026-11-26"):
        renew(made.folder)
    assert ca.revoke("pi-1", now=NOW + timedelta(days=9)).ends is None


def test_revoking_an_unknown_name_offers_the_nearest(fleet: Path) -> None:
    ca.enroll("pi-1", now=NOW)
    with pytest.raises(UnknownName) as caught:
        ca.revoke("pi-11", now=NOW)
    assert caught.value.hint == "did you mean pi-1?"


def test_a_name_enrolled_again_is_not_renewed_with_what_it_had(fleet: Path, tmp_path: Path) -> None:
    stolen = ca.enroll("pi-1", out=tmp_path / "stolen", now=NOW).folder
    ca.revoke("pi-1", now=NOW)
    fresh = ca.enroll("pi-1", now=NOW).folder
    with pytest.raises(FleetError, match="not on the CA's record"):
        renew(stolen)
    assert renew(fresh).ends == LATER + timedelta(days=7)


def test_after_a_rotation_nothing_old_is_renewed_and_all_names_are_listed(fleet: Path) -> None:
    key = "ab" * 32
    folders = {
        name: ca.enroll(name, role, trusted={key: "ops"}, now=NOW).folder
        for name, role in (("pi-1", "node"), ("hub", "router"), ("lost", "node"))
    }  # fmt: skip
    ca.revoke("lost", now=NOW)
    old = (fleet / "ca" / "ca.key").read_bytes()
    rotated = ca.rotate(now=LATER)
    assert rotated.record()["enroll_again"] == [{"node": "hub", "role": "router"}, {"node": "pi-1", "role": "node"}]
    assert [line.split()[2] for line in rotated.lines() if line.startswith("  edgevit")] == ["hub", "pi-1"]
    assert old not in [path.read_bytes() for path in fleet.rglob("*") if path.is_file()]
    for name in ("pi-1", "lost"):
        with pytest.raises(FleetError, match="not on the CA's record"):
            renew(folders[name])
    again = ca.enroll("hub", now=LATER)
    assert again.role == "router"
    assert again.folder == folders["hub"]
    assert key in trusted_keys(again.folder)
    assert read(again.folder, LATER).ends == LATER + timedelta(days=7)


def test_a_lost_answer_is_asked_for_again_with_the_same_key_and_gives_no_longer_life(fleet: Path) -> None:
    found = read(ca.enroll("pi-1", now=NOW).folder)
    renewals = Renewals()
    lost = renewals.answer(renewal_request(found, now=LATER).encode(), now=LATER)[1]
    hours = LATER + timedelta(hours=3)
    given = renewals.answer(renewal_request(found, now=hours).encode(), now=hours)[1]
    first, second = (x509.load_der_x509_certificate(base64.b64decode(one.certificate)) for one in (lost, given))
    assert first.public_key() == second.public_key()
    assert first.not_valid_after_utc == second.not_valid_after_utc
    take_renewal(found, given)
    assert read(found.folder, hours).ends == LATER + timedelta(days=7)


def test_a_certificate_is_not_renewed_over_and_over(fleet: Path) -> None:
    folder = ca.enroll("pi-1", now=NOW).folder
    with pytest.raises(FleetError, match="too early"):
        renew(folder, now=NOW + timedelta(days=1))


def test_a_request_is_answered_once(fleet: Path) -> None:
    asked = renewal_request(read(ca.enroll("pi-1", now=NOW).folder), now=LATER).encode()
    renewals = Renewals()
    renewals.answer(asked, now=LATER)
    with pytest.raises(FleetError, match="answered already"):
        renewals.answer(asked, now=LATER + timedelta(minutes=4))
    with pytest.raises(FleetError, match="is a clock wrong"):
        renewals.answer(asked, now=LATER + timedelta(minutes=6))


def test_an_ended_certificate_is_not_renewed(fleet: Path) -> None:
    folder = ca.enroll("pi-1", now=NOW).folder
    ended = NOW + timedelta(days=7, seconds=1)
    asked = renewal_request(read(folder), now=ended).encode()
    with pytest.raises(FleetError, match="pi-1's certificate ended"):
        Renewals().answer(asked, now=ended)


def test_a_renewal_that_was_killed_is_finished_when_the_folder_is_opened(
    fleet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ca.enroll("pi-1", now=NOW).folder
    found = read(folder)
    answer = Renewals().answer(renewal_request(found, now=LATER).encode(), now=LATER)[1]
    written = identity.write_file

    class Killed(BaseException):
        pass

    def killed_after_the_key(path: Path, content: bytes, *, private: bool = False) -> None:
        written(path, content, private=private)
        if path == folder / "key.pem":
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(identity, "write_file", killed_after_the_key)
        with pytest.raises(Killed):
            take_renewal(found, answer)
    assert read(folder, LATER).ends == LATER + timedelta(days=7)
    assert {path.name for path in folder.iterdir()} == {"key.pem", "cert.pem", "ca.pem", "trusted.json", "node.json"}


def test_an_answer_for_another_key_role_or_ca_is_not_taken(fleet: Path, tmp_path: Path) -> None:
    found, other = (read(ca.enroll(name, now=NOW).folder) for name in ("pi-1", "pi-2"))
    renewals = Renewals()
    mine = renewals.answer(renewal_request(found, now=LATER).encode(), now=LATER)[1]
    theirs = renewals.answer(renewal_request(other, now=LATER).encode(), now=LATER)[1]
    signer = authority.open_ca(now=NOW)
    following = x509.load_der_x509_certificate(base64.b64decode(mine.certificate)).public_key()
    assert isinstance(following, ec.EllipticCurvePublicKey)
    promoted = signer.certify("pi-1", authority.Entry(role="operator"), following, LATER)
    ca.init_ca(force=True, now=NOW)
    elsewhere = authority.open_ca(now=NOW).certify("pi-1", authority.Entry(role="node"), following, LATER)
    bad = [base64.b64encode(der(one)).decode() for one in (promoted, elsewhere, found.certificate)]
    for answer in (theirs, *map(partial(_renewal), [*bad, "AAAA"])):
        with pytest.raises(FleetError, match="not pi-1's next certificate"):
            take_renewal(found, answer)
        assert read(found.folder).certificate == found.certificate
    take_renewal(found, mine)
    assert read(found.folder, LATER).ends == LATER + timedelta(days=7)


def _renewal(certificate: str) -> Renewal:
    return Renewal(certificate=certificate)


# --- nothing but a right request gets a certificate ---------------------------------------------------------------


@pytest.fixture(scope="module")
def enrolled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Identity, Identity]]:
    """A node and an operator of one CA, five days after they were enrolled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEVIT_HOME", str(tmp_path_factory.mktemp("mutated")))
        ca.init_ca(now=NOW)
        yield read(ca.enroll("pi-1", now=NOW).folder), read(ca.enroll("boss", "operator", now=NOW).folder)


def refused(data: bytes) -> None:
    record = authority.ca_folder() / "issued.json"
    before = record.read_bytes()
    with pytest.raises((FleetError, BadMessage)):
        Renewals().answer(data, now=LATER)
    assert record.read_bytes() == before


mutations = st.tuples(st.sampled_from(["flip", "cut", "insert", "drop"]), st.integers(0, 10_000), st.integers(1, 255))


def mutated(data: bytes, how: str, where: int, value: int) -> bytes:
    at = where % len(data)
    changed = {
        "flip": data[:at] + bytes([data[at] ^ value]) + data[at + 1 :],
        "cut": data[:at],
        "insert": data[:at] + bytes([value]) + data[at:],
        "drop": data[:at] + data[at + 1 :],
    }
    return changed[how]


@settings(deadline=None)
@given(field=st.sampled_from(["certificate", "request", "proof"]), how=mutations)
def test_a_changed_certificate_request_or_proof_gets_nothing(
    enrolled: tuple[Identity, Identity], field: str, how: tuple[str, int, int]
) -> None:
    asked = renewal_request(enrolled[0], now=LATER)
    changed = mutated(base64.b64decode(getattr(asked, field)), *how)
    refused(asked.model_copy(update={field: base64.b64encode(changed).decode()}).encode())


@settings(deadline=None)
@given(field=st.sampled_from(["certificate", "request"]), how=mutations)
def test_the_same_signed_again_by_a_dishonest_node_gets_nothing(
    enrolled: tuple[Identity, Identity], field: str, how: tuple[str, int, int]
) -> None:
    asked = renewal_request(enrolled[0], now=LATER)
    changed = mutated(base64.b64decode(getattr(asked, field)), *how)
    refused(signed_by(enrolled[0], asked, {field: base64.b64encode(changed).decode()}))


@settings(deadline=None)
@given(how=mutations)
def test_a_changed_message_gets_nothing(enrolled: tuple[Identity, Identity], how: tuple[str, int, int]) -> None:
    data = renewal_request(enrolled[0], now=LATER).encode()
    changed = mutated(data, *how)
    if json_of(changed) != json_of(data):  # white space between fields changes nothing
        refused(changed)


@settings(deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_noise_gets_nothing(enrolled: tuple[Identity, Identity], data: bytes) -> None:
    refused(data)


def test_a_message_that_is_too_long_is_not_read(enrolled: tuple[Identity, Identity]) -> None:
    refused(renewal_request(enrolled[0], now=LATER).encode() + b" " * renewal.MAX_REQUEST)


def json_of(data: bytes) -> object:
    try:
        return json.loads(data)
    except ValueError:
        return None


def signed_by(who: Identity, asked: RenewalRequest, changes: dict[str, str]) -> bytes:
    changed = asked.model_copy(update=changes)
    key = read_key(who.folder / "key.pem")
    proof = base64.b64encode(key.sign(changed.signed(), ec.ECDSA(hashes.SHA256()))).decode()
    return changed.model_copy(update={"proof": proof}).encode()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_a_node_cannot_become_an_operator_or_another_node(enrolled: tuple[Identity, Identity]) -> None:
    node, boss = enrolled
    asked = renewal_request(node, now=LATER)
    key = ec.generate_private_key(ec.SECP256R1())
    for name, role in (("pi-1", "operator"), ("boss", "node"), ("boss", "operator")):
        refused(signed_by(node, asked, {"request": b64(request(key, name, role))}))
    refused(signed_by(node, asked, {"certificate": b64(der(boss.certificate))}))
    refused(signed_by(boss, asked, {}))
    theirs = renewal_request(boss, now=LATER)
    refused(signed_by(node, asked, {"request": theirs.request}))
    refused(asked.model_copy(update={"proof": theirs.proof}).encode())


def test_keys_of_other_kinds_are_not_certified(enrolled: tuple[Identity, Identity]) -> None:
    asked = renewal_request(enrolled[0], now=LATER)
    for key, digest in (
        (rsa.generate_private_key(65537, 2048), hashes.SHA256()),
        (ed25519.Ed25519PrivateKey.generate(), None),
        (ec.generate_private_key(ec.SECP384R1()), hashes.SHA256()),
    ):
        builder = x509.CertificateSigningRequestBuilder().subject_name(enrolled[0].certificate.subject)
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("pi-1")]), critical=False)
        wanted = builder.sign(key, digest).public_bytes(Encoding.DER)  # type: ignore[arg-type]
        refused(signed_by(enrolled[0], asked, {"request": b64(wanted)}))


def test_a_certificate_that_one_makes_for_oneself_gets_nothing(enrolled: tuple[Identity, Identity]) -> None:
    found = enrolled[0]
    key = ec.generate_private_key(ec.SECP256R1())
    forged = (
        x509.CertificateBuilder()
        .subject_name(found.certificate.subject)
        .issuer_name(found.certificate.issuer)
        .public_key(key.public_key())
        .serial_number(found.certificate.serial_number)
        .not_valid_before(found.begins)
        .not_valid_after(found.ends)
        .sign(key, hashes.SHA256())
    )
    asked = renewal_request(found, now=LATER).model_copy(update={"certificate": b64(der(forged))})
    proof = b64(key.sign(asked.signed(), ec.ECDSA(hashes.SHA256())))
    refused(asked.model_copy(update={"proof": proof}).encode())


def test_the_request_that_all_these_are_made_of_is_answered(enrolled: tuple[Identity, Identity]) -> None:
    """At last, since it changes the record: what is refused above is refused for its change alone."""
    asked = renewal_request(enrolled[0], now=LATER)
    name, answer, ends = Renewals().answer(signed_by(enrolled[0], asked, {}), now=LATER)
    assert (name, ends) == ("pi-1", LATER + timedelta(days=7))
    take_renewal(enrolled[0], answer)


# --- signed orders ------------------------------------------------------------------------------------------------


def test_an_order_is_taken_from_its_operator_and_survives_the_wire(home: Path) -> None:
    placement = sign_placement(PLACED)
    check_placement(parse(Placement, placement.encode(), 1 << 20), trusted_keys())


def later(nodes: dict[str, tuple[str, ...]]) -> Placement:
    """The order with its step raised, as a controller would, and other nodes; pi-1 and pi-3 are its hosts."""
    placement = sign_placement({**PLACED, "hosts": ("pi-1", "pi-3")})
    return placement.model_copy(update={"step": 7, "nodes": nodes})


BOTH = {"pi-1": ("part-0", "part-1"), "pi-2": ("part-2",)}


def test_the_controller_may_have_parts_taken_over_by_the_operators_hosts(home: Path) -> None:
    taken = {"pi-1": ("part-0", "part-1", "part-2"), "pi-2": ("part-2",), "pi-3": ("part-0",)}
    check_placement(later(taken), trusted_keys())


@pytest.mark.parametrize(
    "nodes",
    [
        {},
        {"pi-1": ("part-0", "part-1")},
        {"pi-1": ("part-0",), "pi-2": ("part-2",)},
        {"pi-3": ("part-0", "part-1"), "pi-2": ("part-2",)},
        {**BOTH, "pi-2": ("part-2", "part-0")},
        {**BOTH, "rogue": ("part-0",)},
        {**BOTH, "rogue": ()},
        {**BOTH, "pi-3": ("part-3",)},
    ],
    ids=["nothing", "a node less", "a part less", "moved", "more on no host", "a stranger", "an idle one", "no part"],
)
def test_no_raised_step_takes_parts_away_or_gives_them_to_strangers(
    home: Path, nodes: dict[str, tuple[str, ...]]
) -> None:
    with pytest.raises(BadArtifact, match="does not give nodes what its operator gave them"):
        check_placement(later(nodes), trusted_keys())


def test_what_was_taken_over_needs_a_raised_step(home: Path) -> None:
    taken = later({**BOTH, "pi-3": ("part-0",)})
    with pytest.raises(BadArtifact, match="does not give nodes"):
        check_placement(taken.model_copy(update={"step": 0}), trusted_keys())


@pytest.mark.parametrize("field", ["epoch", "step"])
def test_a_generation_beyond_its_bound_is_no_order(home: Path, field: str) -> None:
    order = sign_placement(PLACED).model_copy(update={field: 10**4299})
    with pytest.raises(BadMessage, match=field):
        parse(Placement, order.encode(), 1 << 20)


CHANGES = {
    "name": "other", "kind": "artifact", "revision": "c" * 64, "release": "c" * 64, "epoch": 4, "replicas": 2,
    "replace_after_s": 11.0, "withdrawn": True, "given": {"pi-2": ("part-0",)}, "hosts": ("pi-2",),
    "key": "ab" * 32, "signature": "0" * 128,
}  # fmt: skip


@pytest.mark.parametrize("field", sorted(CHANGES))
def test_nothing_else_of_an_order_can_be_changed(home: Path, field: str) -> None:
    placement = sign_placement(PLACED)
    assert getattr(placement, field) != CHANGES[field]
    with pytest.raises(BadArtifact, match="does not fit"):
        check_placement(placement.model_copy(update={field: CHANGES[field]}), trusted_keys())


def test_every_signed_field_is_tried_above() -> None:
    assert set(CHANGES) | {"step", "nodes"} == set(Placement.model_fields)


def test_an_order_of_an_unknown_operator_is_refused_until_the_key_is_trusted(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    placement = sign_placement(PLACED)
    monkeypatch.setenv("EDGEVIT_HOME", str(tmp_path / "another"))
    with pytest.raises(FleetError, match="not trusted here") as caught:
        check_placement(placement, trusted_keys())
    assert placement.key in (caught.value.hint or "")
    signing.trust_key(placement.key, "the operator")
    check_placement(placement, trusted_keys())


def test_a_node_with_an_identity_trusts_only_what_it_was_enrolled_with(fleet: Path, tmp_path: Path) -> None:
    operator = sign_placement(PLACED)
    folder = ca.enroll("pi-1", trusted={"ab" * 32: "second operator"}, now=NOW).folder
    signing.trust_key("cd" * 32, "a builder of artifacts")
    assert set(trusted_keys(folder)) == {operator.key, "ab" * 32}
    check_placement(operator, trusted_keys(folder))
    (folder / "trusted.json").unlink()
    with pytest.raises(EdgeVitError, match=r"trusted\.json: no such file"):
        trusted_keys(folder)
