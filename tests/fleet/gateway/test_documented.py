"""Every request that the gateway answers is in docs/reference/http.md."""

from __future__ import annotations

from pathlib import Path

from edgevit.bundle.opened import opened
from edgevit.fleet.gateway.answering import embedded
from edgevit.fleet.gateway.app import Gateway

PAGE = (Path(__file__).parents[3] / "docs/reference/http.md").read_text()


def test_every_request_is_written_down(make_artifact) -> None:
    model = embedded(opened(make_artifact()), name="tiny", runtime=None, threads=1, trust=False)
    gateway = Gateway(model)
    try:
        paths = {
            f"{method.upper()} {path.replace('{name}', 'NAME')}"
            for path, methods in gateway.app.openapi()["paths"].items()
            for method in methods
            if "{version}" not in path
        }
    finally:
        gateway.close()
        model.close()
    assert "POST /v2/models/NAME/classify" in paths
    assert [one for one in paths if f"`{one}`" not in PAGE] == []
