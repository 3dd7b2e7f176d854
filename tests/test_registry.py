from __future__ import annotations

import json

import pytest

from edgevit import registry
from edgevit.errors import EdgeVitError, MissingDependency, UnknownName
from edgevit.export.base import load_exporter


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
        load_exporter("x")
    assert caught.value.hint == registry.pip_line("edgevit[x]")
    (record,) = (found for found in registry.describe() if found["kind"] == "exporter")
    assert record["available"] is record["can_build"] is False
    assert record["reason"] == "needs a-package-that-is-not"


class _Installed:
    """A distribution with what pip writes of where it came from (PEP 610)."""

    def __init__(self, url: str | None, **more: object) -> None:
        self.found = None if url is None else json.dumps({"url": url, **more})

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return self.found


@pytest.mark.parametrize(
    ("came", "line"),
    [
        (_Installed(None), "pip install 'edgevit[tvm]'"),
        (
            _Installed("file:///w/edgevit-0.1.0-py3-none-any.whl", archive_info={}),
            "pip install 'edgevit[tvm] @ file:///w/edgevit-0.1.0-py3-none-any.whl'",
        ),
        (_Installed("file:///a/my%20tree", dir_info={"editable": True}), "pip install -e '/a/my tree[tvm]'"),
        (_Installed("file:///a/tree", dir_info={}), "pip install 'edgevit[tvm] @ file:///a/tree'"),
        (
            _Installed("https://host/e.git", vcs_info={"vcs": "git", "commit_id": "abc"}),
            "pip install 'edgevit[tvm] @ git+https://host/e.git@abc'",
        ),
    ],
    ids=["an index", "a wheel", "an editable tree", "a tree", "git"],
)
def test_an_extra_is_installed_from_where_edgevit_came_from(
    came: _Installed, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry.metadata, "distribution", lambda name: came)
    assert registry.pip_line("edgevit[tvm]") == line
    assert registry.pip_line("a-plugin") == "pip install a-plugin"
    assert (registry.newer_line() == "pip install -U edgevit") == (came.found is None)


def test_the_preferred_runtime_of_onnx_is_onnxruntime_and_the_reference_comes_last() -> None:
    assert registry.runtimes_for("onnx")[0] == "onnxruntime"
    assert registry.runtimes_for("onnx")[-1] == "torch"


def test_describe_has_a_record_for_every_row_and_a_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "version_of", lambda package: None if package == "torch" else "1.0")
    records = {(record["name"], record["kind"]): record for record in registry.describe()}
    assert set(records) >= {("onnx", "exporter"), ("onnxruntime", "runtime"), ("torch", "runtime")}
    torch, onnxruntime = records["torch", "runtime"], records["onnxruntime", "runtime"]
    assert (torch["available"], torch["can_run"], torch["reason"]) == (False, False, "needs torch")
    assert torch["install"] == registry.pip_line("edgevit[export]")
    assert (onnxruntime["available"], onnxruntime["can_run"], onnxruntime["can_build"]) == (True, True, False)


class _Point:
    """An entry point as importlib.metadata gives it."""

    value, dist = "mine:ROW", None

    def __init__(self, name: str, thing: object) -> None:
        self.name, self.thing = name, thing

    def load(self) -> object:
        return self.thing


def test_a_plug_in_adds_a_row_but_takes_no_built_in_name(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = registry.Row("mine", "mine:Runtime", "mine", (), "a third party's", formats=("mine", "onnx"))
    thief = registry.Row("torch", "evil:Runtime", "evil", (), "not torch", formats=("*",))
    points = [_Point("mine", mine), _Point("torch", thief)]
    monkeypatch.setattr(registry.metadata, "entry_points", lambda group: points if "runtimes" in group else [])
    assert registry.row("runtime", "mine") is mine
    assert registry.row("runtime", "torch") is registry.RUNTIMES["torch"]
    assert registry.runtimes_for("onnx") == ["onnxruntime", "openvino", "mine", "torch"]


def test_a_plug_in_that_offers_something_else_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.metadata, "entry_points", lambda group: [_Point("mine", object())])
    with pytest.raises(EdgeVitError, match="mine:ROW does not offer a Row named 'mine'"):
        registry.rows("runtime")


def test_a_package_that_is_installed_but_broken_keeps_its_own_error() -> None:
    row = registry.Row("broken", "edgevit.runtimes.no_such_module:Runtime", "broken", (), "")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        row.load()


def test_any_of_several_wheels_of_one_module_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"onnxruntime-gpu": "1.2"}

    def version(name: str) -> str:
        if name not in installed:
            raise registry.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(registry.metadata, "version", version)
    assert registry.RUNTIMES["onnxruntime"].missing() == ()
    assert registry.version_of("onnxruntime|onnxruntime-gpu") == "1.2"
    installed.clear()
    assert registry.RUNTIMES["onnxruntime"].missing() == ("onnxruntime",)
