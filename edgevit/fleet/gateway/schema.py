"""The gateway's OpenAPI schema: what its routes take and give."""

from __future__ import annotations

from typing import Any

from edgevit.fleet.gateway.oip import HEADER_LENGTH, InferRequest

Schema = dict[str, Any]


def _object(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    return {"type": "object", "properties": {**required, **(optional or {})}, "required": list(required)}


def _json(description: str, schema: Schema) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
ERROR = _object({"error": TEXT})
SPEC = _object({"name": TEXT, "datatype": TEXT, "shape": {"type": "array", "items": {"type": "integer"}}})
SPECS: Schema = {"type": "array", "items": SPEC}


def _errors(*statuses: int) -> dict[int | str, Schema]:
    said = {
        400: "The request is wrong; the sentence says how",
        404: "No such model or version",
        408: "The body did not arrive in time",
        413: "The body is too long",
        422: "A parameter of the path cannot be right",
        500: "The server failed",
        503: "Too many requests at a time, or no node answers",
    }
    return {status: _json(said[status], ERROR) for status in statuses}


HEALTH: dict[int | str, Schema] = {
    200: _json("Well", {"type": "object"}),
    503: _json("Not ready", {"type": "object"}),
}
SERVER: dict[int | str, Schema] = {
    200: _json(
        "Server metadata", _object({"name": TEXT, "version": TEXT, "extensions": {"type": "array", "items": TEXT}})
    ),
}
MODEL: dict[int | str, Schema] = {
    200: _json(
        "Model metadata",
        _object(
            {"name": TEXT, "versions": {"type": "array", "items": TEXT}, "platform": TEXT}
            | {"inputs": SPECS, "outputs": SPECS}
        ),
    ),
    **_errors(404),
}
MODEL_READY: dict[int | str, Schema] = {
    200: _json("Ready", _object({"name": TEXT, "ready": FLAG})),
    503: _json("Not ready", _object({"name": TEXT, "ready": FLAG})),
    **_errors(404),
}
BINARY: Schema = {"schema": {"type": "string", "format": "binary"}}
TENSOR = _object(
    {"name": TEXT, "datatype": TEXT, "shape": {"type": "array", "items": COUNT}},
    {"data": {"type": "array"}, "parameters": {"type": "object"}},
)
INFER: dict[int | str, Schema] = {
    200: {
        "description": "Outputs; with binary_data, JSON and then the tensors' bytes",
        "content": {
            "application/json": {
                "schema": _object(
                    {"model_name": TEXT, "model_version": TEXT, "outputs": {"type": "array", "items": TENSOR}},
                    {"id": TEXT, "parameters": {"type": "object"}},
                )
            },
            "application/octet-stream": BINARY,
        },
    },
    **_errors(400, 404, 408, 413, 500, 503),
}
_PARTS = {
    "parts": COUNT, "answered": COUNT, "degraded": FLAG, "missing": {"type": "array"}, "latency_ms": NUMBER,
    "timings": {"type": "array"},
}  # fmt: skip
_TOP = {"type": "array", "items": _object({"label": TEXT, "index": COUNT, "probability": NUMBER})}
CLASSIFY: dict[int | str, Schema] = {
    200: _json("The best classes, and what the answer was made from", _object({"top": _TOP, **_PARTS})),
    **_errors(400, 404, 408, 413, 500, 503),
}
PREDICT: dict[int | str, Schema] = {
    200: _json(
        "What the model's task answers, as edgevit predict --json has it, and what it was made from",
        _object({"task": TEXT, "words": TEXT, **_PARTS}),
    ),
    **_errors(400, 404, 408, 413, 500, 503),
}
PICTURE: dict[int | str, Schema] = {
    200: {"description": "The answer drawn", "content": {"image/png": BINARY}},
    **_errors(400, 404, 408, 413, 500, 503),
}
_REQUEST = InferRequest.model_json_schema(ref_template="#/components/schemas/{model}")
_DEFS = _REQUEST.pop("$defs")


def _inlined(schema: Any) -> Any:
    """``schema`` without references, so that it stands alone."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _inlined(_DEFS[schema["$ref"].rpartition("/")[2]])
        return {key: _inlined(value) for key, value in schema.items()}
    return [_inlined(value) for value in schema] if isinstance(schema, list) else schema


INFER_BODY: Schema = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": _inlined(_REQUEST)}, "application/octet-stream": BINARY},
    },
    "parameters": [
        {
            "name": HEADER_LENGTH,
            "in": "header",
            "required": False,
            "schema": {"type": "integer", "minimum": 0},
            "description": "Bytes of JSON at the beginning of a body that holds tensors as bytes",
        }
    ],
}
IMAGE_BODY: Schema = {
    "requestBody": {
        "required": True,
        "content": dict.fromkeys(("image/jpeg", "image/png", "image/webp", "application/octet-stream"), BINARY),
    }
}
