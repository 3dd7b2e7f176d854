"""The gateway and those who mean it no good, or know no better: slow, many, foreign, compressed, gone."""

from __future__ import annotations

import gzip
import io
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from fleet.gateway.test_gateway import Client, body_of, expected, image_rows, picture, served
from fleet.tiny_fleet import make_bundle
from PIL import Image
from waiting import wait_for

from edgevit.fleet.bus.messages import MAX_ROWS
from edgevit.fleet.gateway import answering, oip
from edgevit.fleet.gateway.answering import Busy, Decoding, embedded
from edgevit.fleet.gateway.bodies import Refused, image_in, inflated
from edgevit.fleet.gateway.callers import Callers, names_of, own_token, token_file
from edgevit.fleet.gateway.oip import JSON_A_NUMBER, JSON_BESIDE, BadRequest

CLASSIFY = "/v2/models/digits/classify"
INFER = "/v2/models/digits/infer"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("strangers") / "digits", parts=2)


@pytest.fixture(scope="module")
def ask(bundle: Path) -> Iterator[Client]:
    model = embedded(bundle)
    with served(model, body_bytes=1 << 20) as client:
        yield client
    model.close()


def dial(ask: Client, said: bytes) -> socket.socket:
    host, _, port = ask.host.partition(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    connection.sendall(said)
    return connection


def told_before_the_end(connection: socket.socket) -> bytes:
    """All that comes before the server closes; a TimeoutError where it does not."""
    told = b""
    try:
        while more := connection.recv(4096):
            told += more
    except ConnectionResetError:
        pass
    return told


def begun(length: int = 100) -> bytes:
    """The head of a question and one byte of its body."""
    return f"POST {CLASSIFY} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\nx".encode()


def rejected(ask: Client) -> float:
    lines = ask("GET", "/metrics").body.decode().splitlines()
    return float(next(line for line in lines if 'outcome="rejected"' in line).rpartition(" ")[2])


# --- slow and many ------------------------------------------------------------------------------------------------


def test_bodies_that_do_not_arrive_keep_nobody_out(bundle: Path) -> None:
    with served(embedded(bundle), in_flight=2) as ask, ExitStack() as open_ones:
        for _ in range(8):
            open_ones.enter_context(dial(ask, begun()))
        assert [ask("POST", CLASSIFY, picture()).status for _ in range(5)] == [200] * 5


def test_of_too_many_bodies_the_oldest_is_ended_and_the_newest_answered(bundle: Path) -> None:
    with served(embedded(bundle), arriving=3) as ask, ExitStack() as open_ones:
        slow = [open_ones.enter_context(dial(ask, begun())) for _ in range(3)]
        wait_for(lambda: ask("POST", CLASSIFY, picture()).status == 200)
        assert slow[0].recv(64).startswith(b"HTTP/1.1 408")
        slow[2].setblocking(False)
        with pytest.raises(BlockingIOError):
            slow[2].recv(64)


def test_a_body_has_so_long_to_arrive(bundle: Path) -> None:
    with served(embedded(bundle), body_s=0.3) as ask, dial(ask, begun()) as slow:
        assert slow.recv(64).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize(
    "said", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", b"GET /healthz HTTP/1.1\r\nHost: x"]
)
def test_half_a_head_is_not_waited_for(bundle: Path, said: bytes) -> None:
    with served(embedded(bundle), head_s=0.3) as ask, dial(ask, said) as slow:
        assert told_before_the_end(slow) == b""


def test_a_second_head_of_one_connection_has_no_more_time_and_a_whole_one_is_answered(bundle: Path) -> None:
    with served(embedded(bundle), head_s=1.0) as ask:
        whole = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
        with dial(ask, whole) as kept:
            kept.sendall(whole + whole[:9])
            assert told_before_the_end(kept).count(b"200 OK") == 2


def test_of_too_many_connections_those_go_that_say_nothing(bundle: Path) -> None:
    with served(embedded(bundle), connections=4) as ask, ExitStack() as open_ones:
        for _ in range(12):
            open_ones.enter_context(dial(ask, b""))
        assert ask("POST", CLASSIFY, picture()).status == 200


def test_a_burst_of_dashboards_is_bounded_and_those_that_close_make_room(bundle: Path) -> None:
    with served(embedded(bundle), viewers=3) as ask, ExitStack() as open_ones:
        looks = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"
        lines = [open_ones.enter_context(dial(ask, looks)).recv(12) for _ in range(6)]
        assert sorted(lines) == [b"HTTP/1.1 200"] * 3 + [b"HTTP/1.1 503"] * 3
        open_ones.close()

        def let_in() -> bool:
            with dial(ask, looks) as one:
                return one.recv(12) == b"HTTP/1.1 200"

        wait_for(let_in)


def test_who_hangs_up_is_counted_and_fills_no_log(ask: Client, caplog: pytest.LogCaptureFixture) -> None:
    before = rejected(ask)
    with caplog.at_level(logging.DEBUG):
        for _ in range(10):
            dial(ask, begun()).close()
        wait_for(lambda: rejected(ask) == before + 10)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


# --- pages and users ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/healthz", "/v2", "/events", "/metrics", "/openapi.json"])
def test_a_page_that_dns_led_here_is_not_answered(ask: Client, path: str) -> None:
    found = ask("GET", path, headers={"Host": "evil.example"})
    assert found.status == 403
    assert found.json["error"].startswith("this server is not known as evil.example")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},  # another server of the same machine
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"},
    ],
)
def test_a_page_elsewhere_cannot_post(ask: Client, headers: dict[str, str]) -> None:
    found = ask("POST", CLASSIFY, picture(), {"Content-Type": "text/plain", **headers})
    assert (found.status, found.json) == (403, {"error": "pages of other sites are not answered"})


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:80", "[::1]:8080", "pi.localhost", "192.168.1.5"])
def test_addresses_and_localhost_are_known_names(ask: Client, host: str) -> None:
    assert ask("GET", "/v2", headers={"Host": host, "Origin": f"http://{host}"}).status == 200


def test_a_link_to_the_dashboard_may_be_followed(ask: Client) -> None:
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert ask("GET", "/", headers=followed).status == 200
    assert ask("GET", "/events", headers=followed).status == 403


def test_a_name_is_known_where_it_was_given_or_is_this_machines_own() -> None:
    assert names_of("127.0.0.1", ["Pi.Example."]) == {"pi.example", "127.0.0.1"}
    assert socket.gethostname().lower() in names_of("0.0.0.0")
    callers = Callers(names_of("127.0.0.1", ["pi.example"]))
    scope = {"type": "http", "method": "GET", "path": "/v2", "headers": [(b"host", b"PI.example:80")]}
    assert callers.refusal(scope) is None


AS_NOBODY = """
import encodings.idna, http.client, json, os, sys
os.setuid(65534)
found = {}
for path in ("/metrics", "/events", "/v2", "/healthz"):
    connection = http.client.HTTPConnection(sys.argv[1], timeout=20)
    connection.request("GET", path, headers=json.loads(sys.argv[2]))
    found[path] = connection.getresponse().status
print(json.dumps(found))
"""


def statuses_of_nobody(ask: Client, **headers: str) -> dict[str, int]:
    command = [sys.executable, "-S", "-c", AS_NOBODY, ask.host, json.dumps(headers)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can ask as another user")
def test_another_user_of_the_machine_may_use_the_model_and_see_no_more(bundle: Path) -> None:
    with served(embedded(bundle), Callers(token="secret")) as ask:
        assert statuses_of_nobody(ask) == {"/metrics": 401, "/events": 401, "/v2": 200, "/healthz": 200}
        shown = statuses_of_nobody(ask, Authorization="Bearer secret")
        assert shown == {"/metrics": 200, "/events": 200, "/v2": 200, "/healthz": 200}
    with served(embedded(bundle), Callers(token="secret", private=True)) as ask:
        assert statuses_of_nobody(ask) == {"/metrics": 401, "/events": 401, "/v2": 401, "/healthz": 200}


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"])
def test_who_asks_through_a_proxy_of_this_user_is_not_this_user(bundle: Path, header: str) -> None:
    with served(embedded(bundle), Callers(token="secret")) as ask:
        found = ask("GET", "/metrics", headers={header: "10.0.0.7"})
        assert (found.status, found.headers["WWW-Authenticate"]) == (401, "Bearer")
        for given, status in (("secret", 200), ("Secret", 401), ("", 401), ("é", 401)):
            answer = ask("GET", "/metrics", headers={header: "10.0.0.7", "Authorization": f"Bearer {given}"})
            assert answer.status == status
        assert ask("GET", "/metrics?token=secret", headers={header: "10.0.0.7"}).status == 401


def test_the_token_is_made_once_and_is_this_users_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEVIT_HOME", str(tmp_path))
    assert own_token() == own_token()
    assert token_file().stat().st_mode & 0o777 == 0o600


# --- what bodies are ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", lambda data: zlib.compress(data)[2:-4]),
        ("identity", bytes),
    ],
)
def test_a_compressed_question_is_read(ask: Client, bundle: Path, encoding: str, packed) -> None:
    array = image_rows(1)
    body = packed(json.dumps(body_of(array)).encode())
    found = ask("POST", INFER, body, {"Content-Encoding": encoding})
    assert found.status == 200, found.body
    np.testing.assert_allclose(found.json["outputs"][0]["data"], expected(bundle, array)[0], atol=1e-5)


def test_a_compressed_body_is_bounded_by_what_it_holds() -> None:
    assert inflated(gzip.compress(bytes(1000)), "gzip", 1000) == bytes(1000)
    with pytest.raises(Refused, match="too long") as bomb:
        inflated(gzip.compress(bytes(100_000_000)), "gzip", 1000)
    assert bomb.value.status == 413
    for body, encoding, status, said in (
        (b"{}", "br", 415, "Content-Encoding br is not read; gzip and deflate are"),
        (gzip.compress(b"{}"), "gzip, gzip", 415, "one at a time"),
        (b"{}", "gzip", 400, "the body is not gzip"),
        (gzip.compress(b"{}" * 99)[:-9], "gzip", 400, "the gzip body is not whole"),
        (b"", "deflate", 400, "the deflate body is not whole"),
    ):
        with pytest.raises(Refused, match=said) as caught:
            inflated(body, encoding, 1000)
        assert caught.value.status == status


def form(*files: bytes, boundary: str = "XyZ") -> bytes:
    head = 'Content-Disposition: form-data; name="file"; filename="a.png"\r\nContent-Type: image/png'
    note = f'--{boundary}\r\nContent-Disposition: form-data; name="note"\r\n\r\nhello\r\n'.encode()
    parts = [f"--{boundary}\r\n{head}\r\n\r\n".encode() + file + b"\r\n" for file in files]
    return b"".join([note, *parts, f"--{boundary}--\r\n".encode()])


def test_an_image_in_a_form_is_taken(ask: Client) -> None:
    plain = ask("POST", CLASSIFY, picture())
    for boundary in ("XyZ", '"XyZ"'):
        kind = {"Content-Type": f"multipart/form-data; charset=x; boundary={boundary}"}
        sent = ask("POST", CLASSIFY, form(picture()), kind)
        assert (sent.status, sent.json["top"]) == (200, plain.json["top"])
    odd = b"\r\n--Xy\r\n\r\n--\n\r" * 3  # what looks like a boundary and is none belongs to the file
    assert image_in(form(odd), "multipart/form-data; boundary=XyZ") == odd


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        (form(), "multipart/form-data; boundary=XyZ", "holds 0 files"),
        (form(b"a", b"b"), "multipart/form-data; boundary=XyZ", "holds 2 files"),
        (form(b"a"), "multipart/form-data", "names no boundary"),
        (form(b"a")[:-6], "multipart/form-data; boundary=XyZ", "is not whole"),
        (b'{"image": "aGVsbG8="}', "application/json", "send the image's own bytes"),
        (b"image=aGVsbG8=", "application/x-www-form-urlencoded", "send the image's own bytes"),
    ],
)
def test_other_ways_to_send_an_image_are_answered_in_words(ask: Client, body: bytes, kind: str, said: str) -> None:
    found = ask("POST", CLASSIFY, body, {"Content-Type": kind})
    assert found.status in (400, 415)
    assert said in found.json["error"]


def test_json_is_bounded_by_what_the_model_can_take(bundle: Path) -> None:
    model = embedded(bundle)
    most = JSON_BESIDE + JSON_A_NUMBER * MAX_ROWS * 3 * 16 * 16
    question = json.dumps(body_of(image_rows(1)))
    assert oip.read(question.ljust(most).encode(), None, model).feeds["image"].shape == (1, 3, 16, 16)
    with pytest.raises(BadRequest, match=f"at most {most} are read"):
        oip.read(question.ljust(most + 1).encode(), None, model)
    model.close()


def test_what_the_protocol_could_but_this_gateway_does_not_is_said(ask: Client) -> None:
    one = {"name": "image", "shape": [1, 3, 16, 16], "datatype": "FP32"}
    shared = {"inputs": [{**one, "parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 3072}}]}
    assert "shared memory, which is not read here" in ask("POST", INFER, json.dumps(shared)).json["error"]
    binary = json.dumps({"inputs": [{**one, "parameters": {"binary_data_size": 3072}}]}).encode() + bytes(3072)
    assert "Inference-Header-Content-Length does not say where" in ask("POST", INFER, binary).json["error"]


# --- large pictures -----------------------------------------------------------------------------------------------


def test_large_pictures_are_decoded_one_at_a_time_and_small_ones_beside_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "LARGE_PIXELS", 500)
    large, small = flat_png(100), flat_png(10)
    decode, counted = answering.decode, threading.Lock()
    under_way, most = 0, 0

    def slow(image: bytes, *, channels: int) -> np.ndarray:
        nonlocal under_way, most
        if image == small:
            return decode(image, channels=channels)
        with counted:
            under_way += 1
            most = max(most, under_way)
        shape = decode(image, channels=channels)
        threading.Event().wait(0.2)
        with counted:
            under_way -= 1
        return shape

    monkeypatch.setattr(answering, "decode", slow)
    decoding = Decoding()
    outcomes: list[str] = []

    def ask_for(deadline_s: float) -> None:
        try:
            outcomes.append(str(decoding(large, deadline_s).shape))
        except Busy as exc:
            outcomes.append(str(exc))

    threads = [threading.Thread(target=ask_for, args=(5.0,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    wait_for(lambda: under_way == 1)
    assert decoding(small, 0.0).shape == (10, 10, 3)
    with pytest.raises(Busy):
        decoding(large, 0.0)
    for thread in threads:
        thread.join(20)
    assert most == 1
    assert sorted(outcomes) == ["(100, 100, 3)"] * 4 + ["too many large pictures wait to be decoded"] * 2


def flat_png(side: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, "PNG")
    return file.getvalue()
