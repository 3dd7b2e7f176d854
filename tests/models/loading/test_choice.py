"""A model's name, before torch is there: whose it is, and what was meant where nobody answers to it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from edgevit import registry
from edgevit.errors import MissingDependency, UnknownName, Unsupported, UsageError
from edgevit.models.loading.choice import check, named
from edgevit.models.loading.hints import registered
from edgevit.request import ModelChoice


def refused(name: str, **more: object) -> UsageError:
    with pytest.raises(UsageError) as caught:
        check(ModelChoice(name, **more))
    return caught.value


def test_a_name_says_whose_it_is():
    assert named("vit_nano") == ("zoo", "vit_nano")
    assert named("timm:resnet18.a1_in1k") == ("timm", "resnet18.a1_in1k")
    assert named("timm:local-dir:/a:b") == ("timm", "local-dir:/a:b")
    assert named("models/net.py:build") == ("file", "models/net.py:build")
    assert named("net.py") == ("file", "net.py")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("resnet18", "timm:resnet18 or torchvision:resnet18"),
        ("resnet18.a1_in1k", "timm:resnet18.a1_in1k"),
        ("vit_b_16", "torchvision:vit_b_16"),
        ("maxvit_t", "torchvision:maxvit_t"),
        ("vit_base_patch16_224", "timm:vit_base_patch16_224"),
        ("vit_tinny", "vit_tiny"),
        ("google/vit-base-patch16-224", "hf:google/vit-base-patch16-224"),
        ("timm/resnet18.a1_in1k", "timm:hf-hub:timm/resnet18.a1_in1k"),
        ("tim:resnet18", "timm:resnet18"),
        ("torch_vision:resnet18", "torchvision:resnet18"),
    ],
)
def test_what_was_meant_by_an_unknown_name_is_said(name, meant):
    assert f"did you mean {meant}" in refused(name).hint


def test_a_name_like_nothing_else_lists_the_zoo():
    error = refused("qqq")
    assert isinstance(error, UnknownName)
    assert error.hint.startswith("known: ")


def test_a_file_without_a_factory_lists_its_own(tmp_path):
    file = tmp_path / "net.py"
    file.write_text("import torch\ndef build(): ...\ndef _inner(): ...\nclass Net(torch.nn.Module): ...\nSIZE = 3\n")
    error = refused(str(file))
    assert "does not say which of its models" in str(error)
    assert error.hint == f"name one: {file}:build or {file}:Net"
    assert refused(f"{file}:").hint == error.hint
    file.write_text("def build(:\n")
    assert refused(str(file)).hint == f"name the factory: {file}:FUNCTION"
    assert str(refused(str(tmp_path / "none.py"))) == f"no file {tmp_path}/none.py"


def test_a_path_to_something_else_says_what_it_is(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"")
    assert refused(str(tmp_path / "w.pth")).hint.endswith(f"add --weights {tmp_path}/w.pth")
    assert "is a folder" in str(refused(str(tmp_path)))
    for nothing in (str(tmp_path / "a" / "b"), "./w.pth", "runs/best.pth", "./vit"):
        assert "no such path" in refused(nothing).hint


def test_a_prefix_alone_names_no_model():
    assert refused("timm:").hint == "write timm:NAME"


def test_only_libraries_have_pretrained_weights():
    assert "timm:NAME, torchvision:NAME" in refused("vit_nano", pretrained=True).hint


def test_a_library_that_is_not_installed_says_the_pip_line(monkeypatch):
    monkeypatch.setattr(registry, "version_of", lambda package: None)
    with pytest.raises(MissingDependency, match="torchvision:resnet18 needs torchvision") as caught:
        check(ModelChoice("torchvision:resnet18"))
    assert caught.value.hint.startswith("pip install ")
    assert "[torchvision]" in caught.value.hint


def test_names_of_models_are_read_from_a_librarys_source_as_the_library_lists_them():
    from edgevit.models.loading.torchvision_models import import_torchvision

    assert registered("torchvision") == set(import_torchvision().models.list_models())
    assert registered("a_package_that_is_not") == frozenset()


def test_a_name_is_checked_without_torch():
    code = (
        "import sys\nsys.modules['torch'] = None\nfrom edgevit.models.loading.choice import check\n"
        "from edgevit.request import ModelChoice\ncheck(ModelChoice('vit_nano', 'digits'))\n"
        "try:\n    check(ModelChoice('resnet18'))\nexcept Exception as exc:\n    print(exc.hint)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "timm:resnet18" in done.stdout


@pytest.mark.parametrize("name", ["vit_nano", "torchvision:resnet18", "hf:some/model"])
def test_only_timm_and_files_make_models_without_a_head(name: str) -> None:
    with pytest.raises(Unsupported, match="is not made without its head"):
        check(ModelChoice(name, classes=0))
    check(ModelChoice("timm:test_resnet", classes=0))


def test_less_than_no_class_is_refused() -> None:
    with pytest.raises(UsageError, match="0 \\(no head\\) or more"):
        ModelChoice("timm:test_resnet", classes=-1)
