"""Models from files of the user's: run as ``python file.py`` would run them, and every trap is one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
import torch

from edgevit.errors import ExportFailed, UnknownName, Unsupported, UsageError
from edgevit.export.capture import run
from edgevit.models import create_model
from edgevit.models.spec import spec_of
from edgevit.steps import Steps

NET = """
import torch
from torch import nn

def net(channels=3, classes=10):
    return nn.Sequential(
        nn.Conv2d(channels, 8, 4, stride=4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes)
    )
"""
PICTURES = Steps().onto(None, (32, 32))[1]  # what is assumed of a model that does not say


@pytest.fixture
def write(tmp_path):
    """Writes a file with ``net()`` in it; the name of its ``build``."""

    def write(text: str, name: str = "mine.py") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(NET + textwrap.dedent(text))
        return f"{path}:build"

    return write


# --- what the file does to the program ---------------------------------------------------------------------------

PARSES = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--data", required=True)
args = parser.parse_args()
build = net
"""


def test_a_file_that_parses_arguments_when_imported_is_told_so_and_nothing_else_is_said(write, capfd):
    name = write(PARSES)
    path = name.removesuffix(":build")
    with pytest.raises(UsageError) as caught:
        create_model(name)
    words = "the following arguments are required: --data"
    assert str(caught.value) == f"importing {path} ended the program: {words}"
    assert "__main__" in caught.value.hint
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("import sys; sys.exit()", "ended the program$"),
        ("import sys; sys.exit(3)", "ended the program$"),
        ("import sys; sys.exit('no data')", "ended the program: no data$"),
        ("import sys; print('why', file=sys.stderr); exit(1)", "ended the program: why$"),
        ("raise SystemExit", "ended the program$"),
        ("raise GeneratorExit", r"raised GeneratorExit \(mine.py, line 10\)$"),
        ("raise type('Odd', (BaseException,), {})('a\\nb')", r"raised Odd: a \(mine.py, line 10\)$"),
        ("def (", r"raised SyntaxError: invalid syntax \(mine.py, line 10\)"),
        ("x = '\\0'", None),
        ("from sibling import nothing", "raised ModuleNotFoundError: No module named 'sibling'"),
    ],
)
def test_whatever_a_file_raises_when_imported_is_one_sentence(write, statement, says):
    name = write(f"\n{statement}\nbuild = net\n")
    if says is None:
        create_model(name)
        return
    with pytest.raises(UsageError, match=says) as caught:
        create_model(name)
    assert str(caught.value).startswith(f"importing {name.removesuffix(':build')} ")
    assert "\n" not in str(caught.value)


def test_the_factory_too_may_end_the_program(write):
    with pytest.raises(UsageError, match=r"mine\.py:build ended the program"):
        create_model(write("def build(): import sys; sys.exit(1)"))


def test_a_factory_that_interrupts_is_no_ctrl_c(write):
    with pytest.raises(UsageError, match=r"mine\.py:build raised KeyboardInterrupt \(mine\.py, line \d+\)"):
        create_model(write("def build(): raise KeyboardInterrupt"))
    with pytest.raises(KeyboardInterrupt):
        create_model(write("import os\ndef build():\n    os.kill(os.getpid(), 2)\n    return net()"))


_ENDS = ("SystemExit(0)", "KeyboardInterrupt", "GeneratorExit", "Odd('x')", "MemoryError")


@pytest.mark.parametrize("raised", _ENDS)
def test_whatever_a_forward_raises_it_ends_no_more_than_the_model(write, raised):
    text = f"class Odd(BaseException): pass\nclass build(nn.Module):\n    def forward(self, x): raise {raised}\n"
    module = create_model(write(text))
    with pytest.raises(ExportFailed, match=r"the model does not run on inputs of shape .*: ") as caught:
        run(module, (torch.zeros(1, 3, 4, 4),))
    assert raised.partition("(")[0] in str(caught.value) or "forward ends the process (exit 0)" in str(caught.value)


def test_a_module_inside_itself_is_refused(write):
    text = "def build():\n    made = nn.Sequential(net())\n    made[0].parent = made\n    return made"
    with pytest.raises(UsageError, match="the model holds itself: parent of ") as caught:
        create_model(write(text))
    assert caught.value.hint
    shared = create_model(write("def build():\n    one = nn.Conv2d(3, 3, 1)\n    return nn.Sequential(one, one)"))
    assert len(shared) == 2


def test_arguments_are_the_files_own_and_ours_come_back(write, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["edgevit", "export", "--data", "x"])
    name = write(
        "import sys\nassert sys.argv == [__file__]\ndef build():\n    assert len(sys.argv) == 1\n    return net()"
    )
    create_model(name)
    assert sys.argv == ["edgevit", "export", "--data", "x"]


def test_what_a_file_prints_is_no_data_of_ours(write, capfd):
    create_model(write("print('imported')\ndef build():\n    print('built')\n    return net()"))
    out, err = capfd.readouterr()
    assert out == ""
    assert err.split() == ["imported", "built"]


def test_a_file_leaves_the_process_as_it_was(write):
    before = (os.getcwd(), list(sys.path), list(sys.meta_path), list(warnings.filters))
    name = write(
        """
        import os, sys, warnings
        os.chdir("/")
        sys.path.clear()
        warnings.simplefilter("error")
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        def build():
            torch.set_default_device("meta")
            made = net()
            return made.to_empty(device="cpu")
        """
    )
    kept = sys.path.copy()
    try:
        create_model(name)
    finally:
        emptied, sys.path[:] = not sys.path, kept
    assert emptied  # its own search path is the file's to change
    assert (os.getcwd(), list(sys.path), list(sys.meta_path), list(warnings.filters)) == before
    assert (torch.get_default_dtype(), torch.is_grad_enabled()) == (torch.float32, True)
    assert torch.zeros(1).device.type == "cpu"


@pytest.mark.parametrize(
    "text",
    [
        "import torchvision\nbuild = net",
        "def build():\n    import timm\n    return net()",
        "def build():\n    import edgevit\n    edgevit.create_model('timm:resnet10t')\n    return net()",
    ],
    ids=["file", "factory", "twice"],
)
def test_a_file_may_import_timm_or_torchvision_beside_a_torch_for_the_cpu(write, text):
    code = f"from edgevit.models import create_model; create_model({write(text)!r}); import torchvision.ops"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- other files beside it ---------------------------------------------------------------------------------------


def test_two_folders_may_hold_files_of_one_name(tmp_path):
    for folder, classes in (("a", 3), ("b", 4)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(
            f"{NET}\nfrom parts import CLASSES\ndef build(): return net(3, CLASSES)"
        )
        (tmp_path / folder / "parts.py").write_text(f"CLASSES = {classes}")
    for folder, classes in (("a", 3), ("b", 4), ("a", 3)):
        assert spec_of(create_model(f"{tmp_path}/{folder}/mine.py:build")).num_classes == classes


@pytest.mark.parametrize("packaged", [True, False], ids=["with __init__", "without"])
def test_a_file_may_import_from_the_package_that_it_is_in(tmp_path, packaged):
    inner = tmp_path / "project" / "nets"
    inner.mkdir(parents=True)
    (inner / "mine.py").write_text(
        f"{NET}\nfrom . import parts\nfrom .parts import CLASSES\nfrom ..top import MORE\nfrom other import SAME\n"
        "def build(): return net(3, CLASSES + MORE)"
    )
    (inner / "parts.py").write_text("from ..top import MORE\nCLASSES = 2 + MORE")
    (inner / "other.py").write_text("SAME = 1")
    (tmp_path / "project" / "top.py").write_text("MORE = 1")
    if packaged:
        for folder in (inner, inner.parent):
            (folder / "__init__.py").write_text("")
    for _ in range(2):
        assert spec_of(create_model(f"{inner}/mine.py:build")).num_classes == 4


# --- what the name stands for ------------------------------------------------------------------------------------


def test_a_module_or_a_class_may_be_named_instead_of_a_function(write):
    assert spec_of(create_model(write("build = net()"))).num_classes == 10
    text = """
    import functools
    class build(nn.Module):
        def __init__(self, num_classes=3):
            super().__init__()
            self.inner = net(3, num_classes)
        def forward(self, x):
            return self.inner(x)
    part = functools.partial(net, classes=4)
    """
    name = write(text)
    assert spec_of(create_model(name)).num_classes == 3
    assert spec_of(create_model(name, num_classes=5)).num_classes == 5
    assert spec_of(create_model(name.replace(":build", ":part"))).num_classes == 4
    with pytest.raises(UsageError, match="takes no num_classes"):
        create_model(write("build = net()"), num_classes=3)


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ("def build(width): return net()", "needs width", "defaults"),
        ("def build(width, *, depth): return net()", "needs width and depth", "defaults"),
        ("def build(num_classes): return net(3, num_classes)", "needs num_classes", "add --classes N"),
        ("def build(num_classes, image_size): return net()", "needs num_classes and image_size", "--image-size N"),
        ("def build(num_classes, width): return net()", "needs num_classes and width", "defaults"),
        ("def build(): return net(), 3", "returned a tuple", "the model alone"),
        ("def build(): return {'model': net()}", "returned a dict", "the model alone"),
        ("def build(): return net().state_dict()", "returned an OrderedDict", "--weights"),
        ("def build(): return nn.ReLU", "returned a type", r"ReLU\(\)"),
        ("async def build(): return net()", "returned a coroutine", "async"),
        ("def build(): return None", "returned a NoneType", None),
        ("build = 3", "is an int, not a function", "torch.nn.Module"),
        ("def build():\n    return net(3, 'x')", r"raised TypeError: .* \(mine.py, line \d+\)$", "EDGEVIT_DEBUG"),
    ],
)
def test_what_is_no_factory_gets_one_sentence(write, text, says, hint):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a coroutine that nobody awaits
        with pytest.raises(UsageError, match=says) as caught:
            create_model(write(text))
    assert "\n" not in str(caught.value)
    if hint is not None:
        import re

        assert re.search(hint, caught.value.hint)


def test_arguments_that_are_asked_for_are_given(write):
    name = write("def build(num_classes, image_size): return net(3, num_classes)")
    spec = spec_of(create_model(name, num_classes=4, image_size=(16, 24)))
    assert (spec.num_classes, spec.image_size) == (4, (16, 24))
    anything = write("def build(*args, **options):\n    assert not args\n    return net(3, options['num_classes'])")
    assert spec_of(create_model(anything, num_classes=4)).num_classes == 4


def test_an_error_of_ours_in_a_factory_keeps_its_hint(write):
    name = write("def build():\n    from edgevit.models import create_model\n    return create_model('vit_nanno')")
    with pytest.raises(UnknownName) as caught:
        create_model(name)
    assert "vit_nano" in caught.value.hint


# --- the image's size and channels -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size",
    ["np.int64(32)", "32.0", "[32, 32]", "(32.0, 32)", "np.array([32, 32])", "torch.tensor(32)",
     "torch.tensor([32, 32])", "'32'", "torch.Size((32, 32))", "np.float32(32)"],
)  # fmt: skip
@pytest.mark.parametrize("where", ["attribute", "default"])
def test_whatever_means_a_size_is_the_models(write, size, where):
    made = (
        f"def build():\n    made = net()\n    made.image_size = {size}\n    return made"
        if where == "attribute"
        else f"def build(image_size={size}): return net()"
    )
    spec = spec_of(create_model(write(f"import numpy as np\n{made}")))
    assert spec.image_size == spec.preprocess.size == (32, 32)
    assert spec.notes == PICTURES


@pytest.mark.parametrize(
    "size", ["32.5", "(3, 32, 32)", "True", "float('nan')", "lambda: 32", "torch.zeros(3, 32, 32)", "-1"]
)
@pytest.mark.parametrize("where", ["attribute", "default"])
def test_what_means_no_size_is_never_taken_for_224(write, size, where):
    made = (
        f"def build():\n    made = net()\n    made.image_size = {size}\n    return made"
        if where == "attribute"
        else f"def build(image_size={size}): return net()"
    )
    name = write(made)
    with pytest.raises(UsageError, match=r"image_size of .*mine\.py:build must be 1 or more pixels"):
        create_model(name)
    if where == "attribute":
        assert spec_of(create_model(name, image_size=16)).image_size == (16, 16)


def test_the_factorys_own_default_is_honoured_and_224_is_said_to_be_assumed(write):
    own = spec_of(create_model(write("def build(image_size=128): return net()")))
    assert (own.image_size, own.notes) == ((128, 128), PICTURES)
    none = spec_of(create_model(write("def build(image_size=None): return net()")))
    assert none.image_size == (224, 224)
    assert none.notes == ("it says no image size, so 224×224 is assumed; --image-size sets another", *PICTURES)


@pytest.mark.parametrize("size", [np.int64(16), "16", [16, 16], torch.tensor(16)])
def test_python_too_takes_whatever_means_a_size(size):
    assert spec_of(create_model("vit_nano", image_size=size)).image_size == (16, 16)


@pytest.mark.parametrize("channels", [2, 5])
def test_channels_that_images_do_not_have_are_named_before_any_work(write, channels, tmp_path):
    import edgevit

    model = create_model(write(f"def build():\n    made = net({channels})\n    made.image_size = 32\n    return made"))
    spec = spec_of(model)
    assert (spec.channels, spec.num_classes) == (channels, 10)
    for given in (model, torch.nn.Sequential(model)):
        with pytest.raises(
            Unsupported, match=rf"takes images of {channels} channels; pictures have 1, 3 or 4"
        ) as caught:
            edgevit.export(given, "onnx", out=tmp_path / "out", image_size=32)
        assert "inputs=" in caught.value.hint
        assert "takes 3" in caught.value.hint
    images = np.random.default_rng(0).normal(size=(16, channels, 32, 32)).astype(np.float32)
    made = edgevit.export(model, "onnx", out=tmp_path / "out", inputs={"input": images}, threads=1)
    assert made.manifest.parity.status == "verified"


def test_lazy_layers_take_their_shapes_before_weights_are_loaded(write, tmp_path):
    name = write(
        "def build(image_size=16):\n"
        "    return nn.Sequential(nn.LazyConv2d(8, 4, 4), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(10))"
    )
    model = create_model(name)
    assert spec_of(model).num_classes == 10
    torch.save({name: torch.full_like(value, 2) for name, value in model.state_dict().items()}, tmp_path / "w.pt")
    assert create_model(name, weights=tmp_path / "w.pt")[3].weight.mean() == 2
