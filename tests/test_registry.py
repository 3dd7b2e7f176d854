from __future__ import annotations

import pytest

from edgevit import registry
from edgevit.errors import MissingDependency, UnknownName


@pytest.mark.parametrize("kind", ["exporter", "runtime"])
def test_every_row_leads_to_a_class_of_its_own_name(kind: registry.Kind) -> None:
    for name, row in registry.rows(kind).items():
        assert row.load()().name == name == row.name


def test_an_unknown_target_gets_the_nearest_name() -> None:
    with pytest.raises(UnknownName, match="unknown target 'onxx'") as caught:
        registry.row("exporter", "onxx")
    assert caught.value.hint == "did you mean onnx?"
    assert caught.value.exit_code == 2


def test_a_row_without_its_package_says_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    row = registry.Row("x", "nowhere:X", "edgevit[x]", ("a-package-that-is-not",), "")
    monkeypatch.setattr(registry, "EXPORTERS", {"x": row})
    with pytest.raises(MissingDependency, match="a-package-that-is-not") as caught:
        registry.load_exporter("x")
    assert caught.value.hint == "pip install 'edgevit[x]'"
    (record,) = (found for found in registry.describe() if found["kind"] == "exporter")
    assert record["available"] is record["can_build"] is False
    assert record["reason"] == "needs a-package-that-is-not"


def test_the_preferred_runtime_of_onnx_is_onnxruntime_and_the_reference_comes_last() -> None:
    assert registry.runtimes_for("onnx")[0] == "onnxruntime"
    assert registry.runtimes_for("onnx")[-1] == "torch"
