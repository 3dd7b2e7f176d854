"""The gateway under what nobody should send: from its own schema, and in the binary form. Never a 500, never a hang."""

from __future__ import annotations

import http.client
import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import schemathesis
from fleet.gateway.test_gateway import Client, served
from fleet.tiny_fleet import make_bundle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.schemas import APIOperation

from edgevit.artifact.manifest import BatchRange, TensorSpec
from edgevit.fleet.gateway import oip
from edgevit.fleet.gateway.answering import embedded

load_all_checks()
QUICK = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much]
)
KEPT = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    model = embedded(make_bundle(tmp_path_factory.mktemp("fuzz") / "digits", parts=2))
    with served(model, body_bytes=1 << 20) as asked:
        yield asked
    model.close()


@pytest.fixture(scope="module")
def operations(client: Client) -> list[APIOperation]:
    schema = schemathesis.openapi.from_url(f"http://{client.host}/openapi.json")
    return [found.ok() for found in schema.get_all_operations()]


@settings(QUICK, max_examples=60)
@given(st.data())
def test_what_the_schema_allows_and_what_it_does_not_is_answered_as_it_says(
    operations: list[APIOperation], data: st.DataObject
) -> None:
    operation = data.draw(st.sampled_from(operations))
    case = data.draw(operation.as_strategy(generation_mode=data.draw(st.sampled_from(list(GenerationMode)))))
    if "name" in case.path_parameters and data.draw(st.booleans()):
        case.path_parameters["name"] = "digits"  # else nearly every case is a 404
    case.call_and_validate(checks=[CHECKS.get_one(name) for name in KEPT])


# --- the binary form ----------------------------------------------------------------------------------------------

SPECS = {
    "float": TensorSpec(name="float", dtype="float32", shape=("batch", 2, 3), role="image"),
    "half": TensorSpec(name="half", dtype="float16", shape=("batch", 4), role="tensor"),
    "byte": TensorSpec(name="byte", dtype="uint8", shape=("batch", 5), role="tensor"),
    "long": TensorSpec(name="long", dtype="int64", shape=("batch",), role="tensor"),
    "flag": TensorSpec(name="flag", dtype="bool", shape=("batch", 2), role="tensor"),
}


class Model:
    """Inputs of every type; nothing behind them."""

    name = "m"
    inputs = tuple(SPECS.values())
    outputs = (TensorSpec(name="logits", dtype="float32", shape=("batch", 2), role="logits"),)
    rows, sizes = BatchRange(min=1, max=4), None


def arrays(rows: int) -> st.SearchStrategy[dict[str, np.ndarray]]:
    def one(spec: TensorSpec) -> st.SearchStrategy[np.ndarray]:
        shape = (rows, *spec.shape[1:])
        size = math.prod(int(side) for side in shape) * np.dtype(spec.dtype).itemsize
        return st.binary(min_size=size, max_size=size).map(lambda data: _array(data, spec, shape))

    return st.fixed_dictionaries({name: one(spec) for name, spec in SPECS.items()})


def _array(data: bytes, spec: TensorSpec, shape: tuple[Any, ...]) -> np.ndarray:
    found = np.frombuffer(data, spec.dtype if spec.dtype != "bool" else "uint8").reshape(shape)
    if spec.dtype == "bool":
        return found % 2 == 1
    return np.nan_to_num(found, posinf=0, neginf=0) if found.dtype.kind == "f" else found


def body_of(feeds: dict[str, np.ndarray], binary: set[str]) -> tuple[bytes, str]:
    inputs, blobs = [], []
    for name, array in feeds.items():
        one: dict[str, Any] = {"name": name, "shape": array.shape, "datatype": oip.DATATYPES[array.dtype.name]}
        if name in binary:
            blobs.append(array.tobytes())
            one["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            one["data"] = array.ravel().tolist()
        inputs.append(one)
    text = json.dumps({"inputs": inputs}).encode()
    return text + b"".join(blobs), str(len(text))


@QUICK
@given(st.integers(1, 4).flatmap(arrays), st.sets(st.sampled_from(sorted(SPECS))))
def test_every_array_arrives_as_it_was_sent_in_either_form(feeds: dict[str, np.ndarray], binary: set[str]) -> None:
    body, length = body_of(feeds, binary)
    found = oip.read(body, length, Model()).feeds  # type: ignore[arg-type]
    for name, array in feeds.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)


@settings(QUICK, max_examples=200)
@given(st.data())
def test_a_damaged_request_is_understood_or_refused_in_a_sentence(data: st.DataObject) -> None:
    feeds = data.draw(arrays(2))
    body, length = body_of(feeds, data.draw(st.sets(st.sampled_from(sorted(SPECS)))))
    at = data.draw(st.integers(0, len(body) - 1))
    damaged = {
        "flipped": body[:at] + bytes([body[at] ^ data.draw(st.integers(1, 255))]) + body[at + 1 :],
        "cut": body[:at],
        "longer": body + data.draw(st.binary(min_size=1, max_size=20)),
        "moved": body,
    }
    kind = data.draw(st.sampled_from(sorted(damaged)))
    if kind == "moved":
        length = data.draw(st.one_of(st.integers(-2, 2 * len(body)).map(str), st.text(max_size=5)))
    try:
        found = oip.read(damaged[kind], length, Model())  # type: ignore[arg-type]
    except oip.BadRequest:
        return
    assert all(array.shape[1:] == SPECS[name].shape[1:] for name, array in found.feeds.items())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
INPUTS = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["image", "float", "x"]) | JSON,
        "shape": st.lists(st.integers(-1, 70), max_size=7) | JSON,
        "datatype": st.sampled_from(["FP32", "FP16", "BYTES", "BOOL"]) | JSON,
        "data": JSON,
        "parameters": st.dictionaries(st.sampled_from(["binary_data_size", "x"]), JSON) | JSON,
    },
)


@settings(QUICK, max_examples=60)
@given(
    st.fixed_dictionaries(
        {"inputs": st.lists(INPUTS, max_size=3) | JSON}, optional={"outputs": JSON, "id": JSON, "parameters": JSON}
    ),
    st.binary(max_size=30),
    st.none() | st.integers(0, 400).map(str) | st.text("0123456789-+.eE x", max_size=4),
)
def test_no_json_makes_the_server_fail(
    client: Client, request: dict[str, Any], rest: bytes, length: str | None
) -> None:
    headers = {} if length is None else {oip.HEADER_LENGTH: length}
    found = client("POST", "/v2/models/digits/infer", json.dumps(request).encode() + rest, headers)
    assert found.status == 400, (found.status, found.body)
    assert list(found.json) == ["error"]


@settings(QUICK, max_examples=60)
@given(st.binary(max_size=200))
def test_no_bytes_make_the_image_route_fail(client: Client, body: bytes) -> None:
    for start in (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"RIFF\x00\x00\x00\x00WEBP"):
        assert client("POST", "/v2/models/digits/classify", start + body).status == 400


def test_numbers_that_overflow_in_the_model_are_a_400_and_no_500(client: Client) -> None:
    one = {"name": "image", "shape": [1, 3, 16, 16], "datatype": "FP32", "data": [3e38, -3e38] * 384}
    assert client("POST", "/v2/models/digits/infer", json.dumps({"inputs": [one]})).status in (200, 400)


def test_the_server_is_well_after_all_that(client: Client) -> None:
    assert client("GET", "/v2/health/ready").json == {"ready": True}
    text = client("GET", "/metrics").body.decode()
    assert 'edgevit_requests_total{outcome="failed"} 0.0' in text
    assert "edgevit_in_flight 0.0" in text


def test_half_a_request_holds_nothing_up(client: Client) -> None:
    half = http.client.HTTPConnection(client.host, timeout=20)
    half.putrequest("POST", "/v2/models/digits/infer")
    half.putheader("Content-Length", "1000")
    half.endheaders(b"{")
    assert client("GET", "/v2/health/live").status == 200
    half.close()
