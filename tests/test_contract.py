"""Every registered target, and a third party's, keeps the same promises."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgevit
from edgevit import build, registry, signing
from edgevit.artifact.files import hash_tree
from edgevit.artifact.manifest import SIGNATURE
from edgevit.artifact.opened import Artifact
from edgevit.errors import BadArtifact, MissingDependency, ParityFailed, UnknownName, Unsupported, UsageError
from edgevit.export.base import load_exporter
from edgevit.models import zoo
from edgevit.request import ExportRequest, ModelChoice, parse_batch

TARGETS = [*registry.EXPORTERS, "pt2"]
SMALL = [row.name for row in zoo.ZOO.values() if row.small]
DYNAMIC = SMALL[-1]  # takes 1 to 8 images; the others take one
QUICK = {"tensorrt": {"sm": "89", "optimization_level": "0"}}  # one GPU's engine, not the best one
pytestmark = pytest.mark.usefixtures("plugin")


@pytest.fixture(scope="module", autouse=True)
def plugin(tmp_path_factory: pytest.TempPathFactory):
    """The example plug-in, installed where this process and its workers find it."""
    spec = importlib.util.spec_from_file_location("install_plugin", Path(__file__).parent / "plugins" / "install.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    site = tmp_path_factory.mktemp("site")
    module.install(site, tmp_path_factory.mktemp("source"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        patch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
        yield site


def chosen(request: pytest.FixtureRequest, *names: str) -> list[Any]:
    """The parameters of these names that the tests of this file that were chosen (``-k``) ask for, each once."""
    mine = [item for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    return list(
        dict.fromkeys(item.callspec.params[name] for item in mine for name in names if name in item.callspec.params)
    )


class Artifacts:
    """What the chosen tests need of each small model, built when the first of them asks, as one command would."""

    def __init__(self, root: Path, needed: list[tuple[str, str]]) -> None:
        self.root, self.needed = root, needed
        self.built: dict[tuple[str, str], Artifact] = {}

    def __getitem__(self, key: tuple[str, str]) -> Artifact:
        if key not in self.built:
            self.build(key[1])
        return self.built[key]

    def build(self, name: str) -> None:
        targets = tuple(target for target, model in self.needed if model == name)
        asked = ExportRequest(
            ModelChoice(name, weights=next(iter(zoo.shipped_weights(name)), None)),
            targets,
            out=self.root,
            parent=True,
            batch=parse_batch("1-8" if name == DYNAMIC else "1"),
            options={target: options for target, options in QUICK.items() if target in targets},
            threads=1,
        )
        for result in build.exports(asked):
            assert result.error is None, result.error
            assert result.artifact is not None
            self.built[result.artifact.manifest.target, name] = result.artifact


@pytest.fixture(scope="module")
def artifacts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, plugin: Path) -> Artifacts:
    return Artifacts(tmp_path_factory.mktemp("artifacts"), chosen(request, "artifact", "running", "dynamic"))


def runs_here(target: str) -> bool:
    rows = [row for row in registry.RUNTIMES.values() if target in row.formats]
    return not rows or any(row.on_this_machine().able for row in rows)


ABLE = [target for target in TARGETS if runs_here(target)]


@pytest.fixture(params=[(target, name) for target in ABLE for name in SMALL], ids="-".join)
def running(request: pytest.FixtureRequest, artifacts: Artifacts) -> Artifact:
    """One of a target that this machine runs."""
    return artifacts[request.param]


@pytest.fixture(params=[(target, name) for target in TARGETS for name in SMALL], ids="-".join)
def artifact(request: pytest.FixtureRequest, artifacts: Artifacts) -> Artifact:
    return artifacts[request.param]


@pytest.fixture(params=[(target, DYNAMIC) for target in TARGETS], ids="-".join)
def dynamic(request: pytest.FixtureRequest, artifacts: Artifacts) -> Artifact:
    """The one that takes a range of batches, on every target."""
    return artifacts[request.param]


def test_the_manifest_says_everything_a_device_needs(artifact: Artifact) -> None:
    manifest = Artifact.open(artifact.path).manifest
    row = zoo.row(manifest.model.name)
    rows, size = ("batch" if row.name == DYNAMIC else 1), (row.image_size, row.image_size)
    assert [(spec.name, spec.role, spec.shape) for spec in manifest.inputs] == [("image", "image", (rows, 3, *size))]
    side = row.image_size
    outputs = {
        "classify": ("logits", "logits", (rows, row.num_classes)),
        "segment": ("masks", "labels", (rows, side, side)),
        "restore": ("picture", "picture", (rows, 3, 2 * side, 2 * side)),
    }
    assert manifest.model.task == row.task
    assert [(spec.name, spec.role, spec.shape) for spec in manifest.outputs] == [outputs[row.task]]
    assert manifest.preprocess is not None
    assert manifest.preprocess.size == size
    assert manifest.model.form == "deploy"
    assert manifest.reparam is not None
    assert manifest.reparam.max_rel_error <= 1e-10
    assert (artifact.path / manifest.entry).exists()


def test_weights_bring_labels_and_accuracy_and_random_ones_have_none(artifact: Artifact) -> None:
    manifest = artifact.manifest
    if not zoo.shipped_weights(manifest.model.name):
        assert (manifest.labels, manifest.accuracy) == (None, None)
        return
    assert manifest.labels == tuple("0123456789")
    assert manifest.accuracy is not None
    assert manifest.accuracy.top1 >= 0.975


def test_the_listed_hashes_are_those_of_every_file(artifact: Artifact) -> None:
    assert dict(artifact.manifest.files) == hash_tree(artifact.path)
    artifact.check_files()


def test_the_artifact_is_verified_or_says_what_it_needs(artifact: Artifact) -> None:
    parity = artifact.manifest.parity
    assert (parity.status == "verified") == runs_here(artifact.manifest.target)
    if parity.status == "unverified":
        assert parity.reason
        assert parity.reason.startswith("needs")
        return
    assert parity.status == "verified"
    assert parity.max_rel is not None
    assert parity.max_rel <= parity.tolerance
    assert parity.images >= 16


@pytest.mark.parametrize("running", [(target, DYNAMIC) for target in ABLE], ids="-".join, indirect=True)
def test_a_device_finds_the_same_proof(running: Artifact) -> None:
    assert edgevit.verify(running.path, threads=1).parity.status == "verified"


def test_precision_is_counted_in_the_built_graph(artifact: Artifact) -> None:
    report = artifact.manifest.precision_report
    assert report.requested == artifact.manifest.precision
    assert sum(report.layers.values()) > 0


def test_what_cannot_run_here_is_refused_with_what_it_needs(artifact: Artifact) -> None:
    if artifact.manifest.parity.status == "verified":
        edgevit.open_session(artifact.path, threads=1).close()
        return
    with pytest.raises(Unsupported, match=r"^needs") as caught:
        edgevit.open_session(artifact.path, threads=1)
    assert str(caught.value) == artifact.manifest.parity.reason
    for refused in (edgevit.verify, edgevit.profile):
        with pytest.raises(Unsupported, match=r"^needs"):
            refused(artifact.path)


def test_what_runs_code_is_signed_by_its_builder_and_so_is_all_else_where_there_is_a_key(artifact: Artifact) -> None:
    row = registry.row("exporter", artifact.manifest.target)
    signed = (artifact.path / SIGNATURE).is_file()
    assert signed or not row.carries_code
    runtimes = [registry.row("runtime", name) for name in registry.runtimes_for(row.name) if name != "torch"]
    assert {runtime.carries_code for runtime in runtimes} == {row.carries_code}
    if signed:
        assert signing.signer(artifact) == signing.own_key()


def test_a_session_returns_the_golden_outputs(running: Artifact) -> None:
    inputs, expected = running.golden()
    clear = running.golden_clear()
    with edgevit.open_session(running.path, threads=1) as session:
        for row in range(4):
            got = session.infer({name: array[row : row + 1] for name, array in inputs.items()})
            (spec,) = running.manifest.outputs
            right = expected[spec.name]
            if spec.name in clear:  # a pixel between two classes may be of either
                assert clear[spec.name][row].mean() > 0.9
                assert (got[spec.name][0] == right[row])[clear[spec.name][row]].all()
                continue
            error = np.abs(got[spec.name] - right[row : row + 1]) / np.abs(right).max()
            assert error.max() <= running.manifest.parity.tolerance


def test_a_session_refuses_a_wrong_shape_by_name(running: Artifact) -> None:
    with (
        edgevit.open_session(running.path, threads=1) as session,
        pytest.raises(UsageError, match=r"image must be (1|1-8)×3×\d+×\d+, got 1×3×16×16"),
    ):
        session.infer({"image": np.zeros((1, 3, 16, 16), np.float32)})


def test_a_dynamic_batch_is_proved_at_both_ends_and_an_odd_size(dynamic: Artifact) -> None:
    manifest, shape = dynamic.manifest, (3, *zoo.row(DYNAMIC).image_size * np.ones(2, int))
    assert manifest.batch.dynamic
    if not runs_here(manifest.target):
        assert manifest.parity.status == "unverified"
        return
    proved = set(manifest.parity.batches)
    assert {1, 8} <= proved
    assert any(size % 2 and 1 < size < 8 for size in proved)
    with edgevit.open_session(dynamic.path, threads=1) as session:
        logits = session.infer({"image": np.zeros((5, *shape), np.float32)})["logits"]
        assert logits.shape == (5, zoo.row(DYNAMIC).num_classes)
        with pytest.raises(UsageError, match="got 9×3×"):
            session.infer({"image": np.zeros((9, *shape), np.float32)})


@pytest.mark.parametrize("target", TARGETS)
def test_an_unknown_option_names_the_nearest(target: str, tmp_path: Path) -> None:
    model = edgevit.create_model("vit_nano")
    with pytest.raises(UnknownName, match=f"option of {target}"):
        edgevit.export(model, target, out=tmp_path / "x", options={"opzet": "20"})


@pytest.mark.parametrize("target", TARGETS)
def test_an_existing_folder_is_refused_and_kept(target: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    model = edgevit.create_model("vit_nano")
    for force in (False, True):
        with pytest.raises(UsageError, match=r"exists|not an edgevit artifact"):
            edgevit.export(model, target, out=tmp_path / "mine", force=force)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


# Prepares a model once; then builds each target in a process of its own and says its id, and how it ended.
BUILDS = """
import os, sys
from pathlib import Path
import edgevit
from edgevit import build
from edgevit.export.prepare import prepare
from edgevit.export.targets import choose
from edgevit.request import ExportRequest, ModelChoice
prepared = prepare(ExportRequest(ModelChoice("vit_nano", weights="digits"), ("onnx",), threads=1))
for target in sys.argv[2:]:
    child = os.fork()
    if not child:
        build.build_target(prepared, choose(target), Path(sys.argv[1], target))
        os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.fixture(scope="module")
def killed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, plugin: Path) -> Path:
    """A folder where every target was being built until its process was killed."""
    root, targets = tmp_path_factory.mktemp("killed"), chosen(request, "target")
    command = [sys.executable, "-c", BUILDS, str(root), *targets]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as builder:
        assert builder.stdout is not None
        for target in targets:
            child = int(builder.stdout.readline())
            while not any(root.glob(f".{target}.building-*")) and Path("/proc", str(child)).exists():
                time.sleep(0.01)
            os.kill(child, signal.SIGKILL)
            ended = int(builder.stdout.readline())
            assert os.WIFSIGNALED(ended), f"the build of {target} ended before it could be killed"
    return root


@pytest.mark.parametrize("target", TARGETS)
def test_a_killed_build_leaves_no_artifact(target: str, killed: Path) -> None:
    assert any(killed.glob(f".{target}.building-*"))
    assert not (killed / target).exists()


@pytest.mark.parametrize("target", TARGETS)
def test_a_missing_package_is_said_with_its_pip_line(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = registry.version_of
    absent = registry.row("exporter", target).packages[0]
    monkeypatch.setattr(registry, "version_of", lambda package: None if package == absent else real(package))
    with pytest.raises(MissingDependency, match=absent) as caught:
        load_exporter(target)
    assert caught.value.exit_code == 3
    assert caught.value.hint
    assert caught.value.hint.startswith("pip install")


def test_a_failed_artifact_is_kept_aside_and_refused(tmp_path: Path) -> None:
    """The plug-in's exporter is made to write another model's program: the proof must notice."""
    from edgevit.export import capture as capturing

    model = edgevit.create_model("vit_nano", weights="digits")
    other = edgevit.create_model("vit_nano")
    real = capturing.capture

    def swapped(module, *args, **kwargs):
        captured = real(module, *args, **kwargs)
        stolen = real(other, *args, **kwargs)
        object.__setattr__(captured, "program", stolen.program)
        return captured

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgevit.export.prepare.capture", swapped)
        with pytest.raises(ParityFailed, match="tolerance"):
            edgevit.export(model, "onnx", out=tmp_path / "wrong", threads=1)
    assert not (tmp_path / "wrong").exists()
    failed = tmp_path / "wrong.failed"
    assert json.loads((failed / "edgevit.json").read_text())["parity"]["status"] == "failed"
    with pytest.raises((ParityFailed, BadArtifact)):
        edgevit.profile(failed)
