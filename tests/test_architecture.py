"""The rules of the house, as tests: data flows one way, and a device needs no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import house_figures
import pytest

PACKAGE = Path(__file__).parents[1] / "edgevit"

_ABOVE_BUILD = {"edgevit.build", "edgevit.cli", "edgevit.verbs"}
_TORCH_FREE = {"torch", "timm", "edgevit.models", "edgevit.export", "edgevit.train", *_ABOVE_BUILD}
_DEVICE_SIDE = {f"edgevit.{room}" for room in ("runtimes", "profiles", "proof", "bundle", "fleet")}
_FLEET_FLOORS = ("bus", "trust", "agent", "operating", "asking", "gateway")  # each knows those before it

_TORCH_FREE_FILES = (
    "addresses", "disk", "foreign", "images", "info", "pixels", "printable", "request", "signing", "sizes", "steps",
    "terminal",
)  # fmt: skip

# What the files of a room may never import. `edgevit/export/__init__.py` has one door, see test below.
FORBIDDEN = {
    "export/": _DEVICE_SIDE | _ABOVE_BUILD,
    "models/": _DEVICE_SIDE | {"edgevit.export", *_ABOVE_BUILD},
    "train/": _DEVICE_SIDE | {"edgevit.export", *_ABOVE_BUILD},
    "quantize/": _DEVICE_SIDE | _ABOVE_BUILD,
    "quantize/plan.py": _TORCH_FREE,
    "runtimes/": _TORCH_FREE | {"edgevit.proof", "edgevit.profiles", "edgevit.bundle", "edgevit.fleet"},
    "engines/": _TORCH_FREE | {"edgevit.runtimes", "edgevit.artifact"},
    "proof/": _TORCH_FREE | {"edgevit.profiles", "edgevit.bundle", "edgevit.fleet"},
    "profiles/": _TORCH_FREE | {"edgevit.bundle", "edgevit.fleet"},
    "prediction/": _TORCH_FREE | {"edgevit.profiles", "edgevit.split", "edgevit.fleet"},
    "bundle/": _TORCH_FREE | {"edgevit.split", "edgevit.fleet"},
    "split/": {"edgevit.fleet", "edgevit.cli", "edgevit.verbs"},
    "artifact/": _TORCH_FREE | {"edgevit.runtimes", "edgevit.proof", "edgevit.profiles"},
    "data/": _TORCH_FREE | {"pickle.load", "edgevit.artifact"},
    **{f"{name}.py": _TORCH_FREE for name in _TORCH_FREE_FILES},
    "registry.py": {"torch", "numpy", "pydantic", "edgevit.export", "edgevit.runtimes"},
    "worker.py": {"numpy"} | _TORCH_FREE,
    "fleet/": _TORCH_FREE,
    **{
        f"fleet/{floor}/": {f"edgevit.fleet.{above}" for above in _FLEET_FLOORS[height + 1 :]}
        for height, floor in enumerate(_FLEET_FLOORS)
    },
}
EXEMPT = {"runtimes/torch.py", "export/__init__.py"}


def imports_of(path: Path) -> set[str]:
    """Every module named by an import statement of the file, those under TYPE_CHECKING left out."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def files_of(room: str) -> list[Path]:
    root = PACKAGE / room
    return sorted(root.rglob("*.py")) if root.is_dir() else [root]


@pytest.fixture(scope="module")
def figures() -> dict[str, float]:
    return house_figures.figures(house_figures.sources())


@pytest.mark.parametrize("name", sorted(house_figures.LIMITS))
def test_the_house_keeps_its_figures(name: str, figures: dict[str, float]) -> None:
    assert figures[name] <= house_figures.LIMITS[name]


def test_a_circle_of_imports_is_found_even_inside_functions(tmp_path: Path) -> None:
    package = tmp_path / "edgevit"
    package.mkdir()
    (package / "a.py").write_text("def lazy():\n    from edgevit import b\n")
    (package / "b.py").write_text("from edgevit.a import lazy\n")
    found = house_figures.sources(package)
    assert set(house_figures.circle(found)) == {"edgevit.a", "edgevit.b"}


@pytest.mark.parametrize("room", sorted(FORBIDDEN))
def test_a_room_imports_nothing_it_must_not(room: str) -> None:
    checked = 0
    for path in files_of(room):
        if str(path.relative_to(PACKAGE)) in EXEMPT:
            continue
        checked += 1
        for name in imports_of(path):
            for forbidden in FORBIDDEN[room]:
                assert not f"{name}.".startswith(f"{forbidden}."), f"{path} imports {name}"
    assert checked


def test_only_build_imports_both_exporters_and_runtimes() -> None:
    both = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if any(name.startswith("edgevit.export") for name in imports_of(path))
        and any(name.startswith("edgevit.runtimes") for name in imports_of(path))
    }
    assert both <= {"build.py"}


def test_the_export_package_opens_one_door_to_build_and_nothing_else() -> None:
    ours = {name for name in imports_of(PACKAGE / "export" / "__init__.py") if name.startswith("edgevit")}
    assert ours == {"edgevit.build", "edgevit.build.export"}


def loaded_by(code: str) -> set[str]:
    """Top-level modules in sys.modules after ``code`` ran in a fresh interpreter."""
    program = f"{code}\nimport sys\nprint('\\n'.join(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(ran.stdout.split())


HEAVY = {
    "PIL", "coremltools", "cryptography", "numpy", "onnx", "onnxruntime", "onnxscript", "pydantic", "skimage",
    "sklearn", "timm", "torch", "tvm",
}  # fmt: skip


def test_importing_edgevit_loads_nothing_heavy() -> None:
    assert not loaded_by("import edgevit") & (HEAVY | {"typer", "rich"})


def test_the_help_page_loads_nothing_heavy() -> None:
    code = (
        "import contextlib, io, sys\nsys.argv = ['edgevit', '--help']\nfrom edgevit.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n    main()"
    )
    assert not loaded_by(code) & HEAVY


_READERS = ("pyav", "opencv")  # of videos: each needs its package
DEVICE_MODULES = (
    "artifact.opened", "build", "data.source", "images", "info", "precisions", "registry", "request",
    "signing", "worker", "runtimes.base", "runtimes.onnxruntime", "profiles.latency", "proof.parity", "proof.verify",
    "profiles.environment", "runtimes.tensorrt.device", "runtimes.coreml.device", "runtimes.tvm.device",
    "runtimes.coreml.evaluator", "runtimes.coreml.program", "runtimes.tensorrt.here",
    "runtimes.coreml.here", "runtimes.tvm.here", "benchmark", "profiles.compare", "profiles.gates",
    "profiles.outcomes", "profiles.stored", "cgroups", "quantize.plan", "runtimes.openvino.device",
    *(f"prediction.{path.stem}" for path in (PACKAGE / "prediction").glob("[a-z]*.py") if path.stem not in _READERS),
    *(f"bundle.{path.stem}" for path in (PACKAGE / "bundle").glob("[a-z]*.py")),
    *(f"fleet.{path.parent.name}.{path.stem}" for path in (PACKAGE / "fleet").glob("*/[a-z]*.py")),
)  # fmt: skip


# Each module is imported in a process of its own; what they all import from others is there already.
IMPORTS = """
import os, sys
for name in ("torch", "timm", "onnx", "sklearn", "skimage"):
    sys.modules[name] = None
import cryptography.x509, fastapi, numpy, onnxruntime, PIL.Image, pydantic
for name in sys.argv[1:]:
    child = os.fork()
    if not child:
        __import__(f"edgevit.{name}")
        os._exit(0)
    print(name, os.waitpid(child, 0)[1], flush=True)
"""


@pytest.fixture(scope="module")
def statuses() -> dict[str, str]:
    """How the import of each module ended where torch is not installed: "0" is well."""
    command = [sys.executable, "-c", IMPORTS, *DEVICE_MODULES]
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(line.split() for line in ran.stdout.splitlines())


@pytest.mark.parametrize("module", DEVICE_MODULES)
def test_a_device_module_imports_with_no_torch_installed(module: str, statuses: dict[str, str]) -> None:
    assert statuses[module] == "0"


def test_every_lazy_public_name_exists() -> None:
    import edgevit

    for name in edgevit.__all__:
        assert callable(getattr(edgevit, name)), name


def test_no_file_is_called_after_nothing() -> None:
    names = {path.stem for path in PACKAGE.rglob("*.py")}
    assert not names & {"utils", "util", "helpers", "common", "manager", "misc"}
