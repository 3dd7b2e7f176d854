"""What the registry does with plug-ins that are wrong."""

from __future__ import annotations

from importlib import metadata

import pytest

from edgevit import registry
from edgevit.errors import EdgeVitError


def offer(monkeypatch: pytest.MonkeyPatch, *points: metadata.EntryPoint) -> None:
    monkeypatch.setattr(metadata, "entry_points", lambda group: [point for point in points if point.group == group])


def test_a_plug_in_cannot_take_the_name_of_a_built_in(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, metadata.EntryPoint("onnx", "edgevit.registry:RUNTIMES", "edgevit.exporters"))
    assert registry.rows("exporter")["onnx"] is registry.EXPORTERS["onnx"]


def test_a_plug_in_that_offers_no_row_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, metadata.EntryPoint("odd", "edgevit.registry:RUNTIMES", "edgevit.exporters"))
    with pytest.raises(EdgeVitError, match=r"edgevit\.registry:RUNTIMES does not offer a Row named 'odd'"):
        registry.rows("exporter")
