"""The tuner with real kernels, built and timed in its child, and what an export makes of the records."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax

from edgevit.errors import UsageError
from edgevit.export.base import parse_options
from edgevit.export.tvm import building, schedules, targets, tuning
from edgevit.export.tvm.compile import calls_of
from edgevit.export.tvm.exporter import TvmExporter
from edgevit.export.tvm.records.database import Database, Record, read, shipped_file, user_file, write
from edgevit.export.tvm.tuning_measure import Measurer
from edgevit.export.tvm.tuning_search import Choice
from edgevit.export.tvm.tuning_tasks import Task, tasks_of


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "x.json")


def two_products(width: int = 48) -> tvm.ir.IRModule:
    """Relax: two equal products and a rectifier, lowered and fused, not scheduled."""
    builder = relax.BlockBuilder()
    image = relax.Var("image", relax.TensorType((width, width), "float32"))
    with builder.function("main", [image]):
        with builder.dataflow():
            value = image
            for seed in range(2):
                matrix = np.random.default_rng(seed).normal(size=(width, width)).astype(np.float32)
                value = builder.emit(relax.op.matmul(value, relax.const(matrix)))
                value = builder.emit(relax.op.nn.relu(value))
            result = builder.emit_output(value)
        builder.emit_func_output(result)
    passes = [
        relax.transform.LegalizeOps(),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
    ]
    return tvm.transform.Sequential(passes)(builder.finalize())


@pytest.fixture(scope="module")
def real() -> tuple[tvm.ir.IRModule, targets.BuildTarget]:
    return two_products(), targets.host(1)


def test_equal_kernels_are_one_task_with_their_calls_added(real: tuple[Any, targets.BuildTarget]) -> None:
    module, target = real
    assert len(calls_of(module)) == 2
    tasks = tasks_of(module, target)
    assert [found.calls for found in tasks] == [2]
    assert all(found.start[knob] in values for found in tasks for knob, values in found.knobs.items())


def test_real_kernels_are_tuned_and_the_records_fit_the_next_export(
    real: tuple[Any, targets.BuildTarget], database: Database
) -> None:
    module, target = real
    said: list[str] = []
    choices = tuning.tune(
        module, target, trials=6, threads=1, progress=lambda stage, share: said.append(stage), database=database
    )
    (record,) = read(database.path)
    assert 0 < record.us <= record.rule_us < 1e6
    assert len(said) >= 1
    assert choices == ({record.workload: record.choice} if record.gains else {})
    assert tuning.known(module, target, Database(database.path)) == choices
    assert tuning.sources(module, target, database) == {"own": len(choices), "shipped": 0, "rules": 1 - len(choices)}
    schedules.apply(module, target, choices)


def another_choice(module: Any, target: targets.BuildTarget, task: Task) -> Choice:
    """One that is not the rules', and gives another schedule."""
    rules = schedules.apply(module, target, {}).script()
    for knob, values in task.knobs.items():
        for value in values:
            with contextlib.suppress(ValueError):  # it does not fit this kernel
                choice = {**task.start, knob: value}
                if schedules.apply(module, target, {task.key: choice}).script() != rules:
                    return choice
    raise AssertionError("every choice gives the same schedule")


def test_records_can_be_left_out_of_a_build(
    real: tuple[Any, targets.BuildTarget], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module, target = real
    (found,) = tasks_of(module, target)
    choice = another_choice(module, target, found)
    record = Record(found.key, found.name, choice, found.space, us=1.0, rule_us=2.0, trials=2)
    monkeypatch.setattr("edgevit.export.tvm.records.database.SHIPPED", tmp_path)
    monkeypatch.setenv("EDGEVIT_HOME", str(tmp_path / "home"))
    write(shipped_file(target.family()), [record])
    scripts = {
        "rules": schedules.apply(module, target, {}).script(),
        "record": schedules.apply(module, target, {found.key: choice}).script(),
    }

    def built(records: str) -> tuple[str, str]:
        made, (note,) = building.schedule(module, target, records)
        return next(name for name, script in scripts.items() if script == made.script()), note

    none = ("rules", "all kernels scheduled by the rules: records=none")
    assert built("all") == ("record", "tunable kernels scheduled 1 by records that edgevit ships")
    assert built("own") == ("rules", "tunable kernels scheduled 1 by the rules")
    assert built("none") == none
    Database(user_file(target)).put(record)
    assert built("all") == built("own") == ("record", "tunable kernels scheduled 1 by this machine's records")
    assert built("none") == none


def test_a_search_whose_finds_are_left_out_is_refused() -> None:
    for budget in ({"minutes": "1"}, {"trials": "8"}):
        with pytest.raises(UsageError, match=r"tvm\.records: .*own searches from the rules"):
            parse_options(TvmExporter(), {"records": "none", **budget})
    with pytest.raises(UsageError, match=r"tvm\.records: .*'all', 'own' or 'none'"):
        parse_options(TvmExporter(), {"records": "some"})


def test_a_choice_that_kills_the_child_is_not_taken_and_the_others_are_timed(
    real: tuple[Any, targets.BuildTarget], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module, target = real
    (found,) = tasks_of(module, target)
    plugin = tmp_path / "sitecustomize.py"
    plugin.write_text(
        "import os, signal, sys\n"
        "class Deadly(dict):\n"
        "    pass\n"
        "import json\n"
        "loads = json.loads\n"
        "def deadly(text, *rest, **more):\n"
        "    found = loads(text, *rest, **more)\n"
        "    if isinstance(found, dict) and any('deadly' in choice for choice in found.get('choices', ())):\n"
        "        found['choices'] = [Bomb(choice) if 'deadly' in choice else choice for choice in found['choices']]\n"
        "    return found\n"
        "class Bomb(dict):\n"
        "    def _die(self, *_):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    __getitem__ = get = keys = items = __iter__ = _die\n"
        "json.loads = deadly\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with Measurer(target, 1) as measurer:
        times = measurer.times(found.key, found.func, [found.start, {"deadly": 1}, found.start], rounds=1)
    assert times[1] is None
    assert all(us is not None and us > 0 for us in (times[0], times[2]))


def test_a_measurer_leaves_no_process_behind(real: tuple[Any, targets.BuildTarget]) -> None:
    module, target = real
    (found,) = tasks_of(module, target)
    with Measurer(target, 1) as measurer:
        assert measurer.times(found.key, found.func, [found.start], rounds=1)[0] is not None
        child = measurer._child
        assert child is not None
    assert child.returncode == -signal.SIGKILL
    assert json.dumps(measurer.times(found.key, found.func, [])) == "[]"


EXPORT = """
import sys
from pathlib import Path
import numpy as np
from torch import nn
from edgevit.export.prepare import prepare
from edgevit.request import ExportRequest, ModelChoice
from edgevit.export.base import Context
from edgevit.export.tvm.exporter import TvmExporter, TvmOptions

class Tiny(nn.Sequential):
    def forward(self, rows):
        return super().forward(rows)

model = Tiny(nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 80)).eval()
rows = {"rows": np.random.default_rng(0).normal(size=(16, 96)).astype(np.float32)}
capture = prepare(ExportRequest(ModelChoice(model), ("tvm",), threads=1, inputs=rows)).capture
context = Context(threads=1, progress=lambda stage, share: print(stage, flush=True))
options = TvmOptions(minutes=30, records="own")
built = TvmExporter().write(capture, Path(sys.argv[1]), precision="fp32", options=options, context=context)
print("notes:", *built.notes, sep="|")
"""


def test_ctrl_c_ends_the_search_and_the_build_goes_on_with_what_was_found(tmp_path: Path) -> None:
    folder, home = tmp_path / "artifact", tmp_path / "home"
    folder.mkdir()
    command = [sys.executable, "-c", EXPORT, str(folder)]
    environment = {**os.environ, "EDGEVIT_HOME": str(home)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("TVM: tune") and " 2 trials" in line:
                process.send_signal(signal.SIGINT)
                break
        rest = process.stdout.read()
    assert process.returncode == 0, rest
    assert "|the search for schedules was stopped early; what it had found is used|" in rest
    assert (folder / "model.so").stat().st_size > 96 * 96 * 4
    (kept,) = (home / "tvm").iterdir()
    assert len(read(kept)) == 2
