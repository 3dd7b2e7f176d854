"""ED-ViT in figures: what hp heads pruned make of ViT-S/B/L, how fast the sub-models are, and what scores cost.

    python benchmarks/edvit_sizes.py sizes [vit_small] [vit_base] [vit_large] [--heads-pruned HP …]
    python benchmarks/edvit_sizes.py table                              (print what is there, as Markdown)
    python benchmarks/edvit_sizes.py speed [--quick]                    (run alone)
    python benchmarks/edvit_sizes.py scores --weights trunk.safetensors [--images N]

sizes   the table of docs/reference/edvit.md from exported ONNX artifacts: split → prune → export with random weights
        and two synthetic images. Bytes are those of the graph's weights, MACs those of its Conv, MatMul and Gemm nodes;
        seconds and peak memory are those of a process that loads, prunes, exports and verifies. The deploy form is
        counted, which is what is shipped: less than the paper's arithmetic, since the last block is for one token
speed   ViT-Base against its ten sub-models at hp = 10, ONNX Runtime, one thread, interleaved: the slowest sub-model's
        ratio with its interval, beside the ratio of MACs and the time by operator
scores  exact and taylor importance of a trained trunk on the same images: seconds, rank correlation

Each part replaces its own section of benchmarks/results/edvit_sizes.json.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from edgevit.profiles import environment
from edgevit.profiles.interleave import Schedule, interleave
from edgevit.registry import version_of
from edgevit.request import ModelChoice

RESULTS = Path(__file__).parent / "results" / "edvit_sizes.json"
PACKAGES = ("edgevit", "onnx", "onnxruntime", "torch", "numpy")
MIB, CLASSES = 2**20, 10
# Parts by heads pruned. ViT-B's 8 is in the paper's arithmetic although no N needs it.
TABLE = {
    "vit_base": {0: 0, 4: 1, 6: 2, 7: 3, 8: 5, 9: 5, 10: 10},
    "vit_small": {0: 0, 2: 1, 3: 2, 4: 3, 5: 10},
    "vit_large": {0: 0, 5: 1, 8: 2, 10: 3, 11: 5, 13: 10},
}
FULL = Schedule(blocks=21, turn_s=0.3, turn_runs=3, warm_runs=1)
QUICK = Schedule(blocks=9, turn_s=0.0, turn_runs=1, warm_runs=1)
HEADLINE = 10  # heads pruned of 12, ten parts
WANTED_SPEEDUP = 20.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    sizes_ = commands.add_parser("sizes")
    sizes_.add_argument("models", nargs="*", default=list(TABLE))
    sizes_.add_argument("--heads-pruned", type=int, nargs="*")
    row_ = commands.add_parser("row", help="one row, for sizes: in a process of its own")
    row_.add_argument("model")
    row_.add_argument("hp", type=int)
    row_.add_argument("scores", type=Path)
    commands.add_parser("table")
    speed_ = commands.add_parser("speed")
    speed_.add_argument("--quick", action="store_true")
    scores_ = commands.add_parser("scores")
    scores_.add_argument("--weights", type=Path, required=True)
    scores_.add_argument("--images", type=int, default=16)
    asked = parser.parse_args()
    if asked.command == "row":
        print(json.dumps(row(asked.model, asked.hp, asked.scores)))
    elif asked.command == "sizes":
        for model in asked.models:
            sizes(model, asked.heads_pruned)
    elif asked.command == "table":
        print(table())
    elif asked.command == "speed":
        save("speed-quick" if asked.quick else "speed", speed(QUICK if asked.quick else FULL))
    else:
        save("scores", scores(asked.weights, asked.images))


def save(section: str, content: Any) -> None:
    """Replace one section; every section says on which machine and when it was measured."""
    record = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    machine = environment.collect().record()
    versions = {name: version_of(name) for name in PACKAGES}
    record[section] = {"environment": machine, "versions": versions, **content}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")


# --- sizes -----------------------------------------------------------------------------------------------------------


def sizes(model: str, only: list[int] | None) -> None:
    """Every row of one model, each in its own process; saved as soon as it is known."""
    print(f"{model}: hp, dim, weights MiB (trunk ÷), GMACs (trunk ÷), file MiB, seconds, peak GiB", flush=True)
    record = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    known = record.get(f"sizes {model}", {"rows": {}, "scoring": None})
    rows, scoring = known["rows"], known["scoring"]
    wanted = list(TABLE[model]) if only is None else only
    with tempfile.TemporaryDirectory(prefix="edgevit-edvit-") as scratch:
        scored = Path(scratch) / "scores.pt"
        for hp in wanted:
            command = [sys.executable, __file__, "row", model, str(hp), str(scored)]
            ran = subprocess.run(command, check=True, capture_output=True, text=True)
            found = json.loads(ran.stdout.splitlines()[-1])
            scoring = found.pop("scoring") or scoring
            rows[str(hp)] = found
            save(f"sizes {model}", {"classes": CLASSES, "scoring": scoring, "rows": with_ratios(rows)})
            print(line(hp, rows), flush=True)


def with_ratios(rows: dict[str, Any]) -> dict[str, Any]:
    """The trunk's bytes and MACs divided by each row's, where the trunk is known."""
    if trunk := rows.get("0"):
        for found in rows.values():
            found["size_ratio"] = trunk["weight_bytes"] / found["weight_bytes"]
            found["macs_ratio"] = trunk["macs"] / found["macs"]
    return dict(sorted(rows.items(), key=lambda each: int(each[0])))


def line(hp: int, rows: dict[str, Any]) -> str:
    one = rows[str(hp)]
    size, macs = (f"({one[key]:.1f})" if key in one else "" for key in ("size_ratio", "macs_ratio"))
    return (
        f"  {hp:2d} {one['dim']:4d} | {one['weight_bytes'] / MIB:.2f} {size} {one['macs'] / 1e9:.3f} {macs} "
        f"{one['file_bytes'] / MIB:.2f} {one['parity']} | {one['seconds']:.0f} s, {one['peak_gib']:.2f} GiB"
    )


def table() -> str:
    """All rows that are there, as the docs show them."""
    lines = ["| model | hp | N | D | MiB | ÷ | GMACs | ÷ | seconds | peak GiB |", "|---" * 10 + "|"]
    record = json.loads(RESULTS.read_text())
    for model in TABLE:
        for hp, one in record.get(f"sizes {model}", {"rows": {}})["rows"].items():
            size, macs = (f"{one[key]:.1f}" if key in one else "" for key in ("size_ratio", "macs_ratio"))
            counted = (f"{one['weight_bytes'] / MIB:.4g}", size, f"{one['macs'] / 1e9:.4g}", macs)
            cells = (
                model,
                hp,
                one["parts"] or "",
                one["dim"],
                *counted,
                f"{one['seconds']:.0f}",
                f"{one['peak_gib']:.1f}",
            )
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def row(model: str, hp: int, scored: Path) -> dict[str, Any]:
    """Prune and export one model, here and now. The first row of a model scores its units and leaves them at ``scored``
    for the others."""
    import torch

    torch.set_num_threads(1)
    begun = time.monotonic()
    trunk = random_trunk(model)
    if hp == 0:
        module, scoring, dim, outputs = trunk, None, trunk.config.dim, CLASSES
    else:
        importance, scoring = importance_of(trunk, scored)
        classes = math.ceil(CLASSES / TABLE[model].get(hp, CLASSES))
        module = sub_model(trunk, importance, hp, classes)
        dim, outputs = module.feature_size, classes + 1
        del trunk, importance
    with tempfile.TemporaryDirectory(prefix="edgevit-edvit-row-") as scratch:
        artifact = exported(module, Path(scratch) / "artifact")
    return {
        "parts": TABLE[model].get(hp),
        "dim": dim,
        "outputs": outputs,
        **artifact,
        "seconds": time.monotonic() - begun - (scoring["seconds"] if scoring else 0),
        "peak_gib": peak_gib(),
        "scoring": scoring,
    }


def random_trunk(model: str) -> Any:
    """Random weights, and no two tensors alike: the exporter stores equal ones (fresh biases and norms) once."""
    import torch

    from edgevit.split.trunk import load_trunk

    trunk = load_trunk(ModelChoice(model, classes=CLASSES))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trunk.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 1e-3)
    return trunk


def importance_of(trunk: Any, scored: Path) -> tuple[Any, dict[str, Any] | None]:
    """Taylor scores on two synthetic images; what they cost when they were not there yet."""
    import torch

    from edgevit.split.importance import taylor_importance

    if scored.exists():
        return torch.load(scored, weights_only=False), None
    images = torch.randn(2, 3, *trunk.config.image_size, generator=torch.Generator().manual_seed(0))
    found = taylor_importance(trunk, images)
    torch.save(found, scored)
    return found, {"method": "taylor", "images": 2, "seconds": found.seconds, "peak_gib": peak_gib()}


def sub_model(trunk: Any, importance: Any, hp: int, classes: int) -> Any:
    """The pruned part with a spec like its trunk's."""
    from dataclasses import replace

    from edgevit.models.families.edvit import SubModel
    from edgevit.models.spec import attach_spec, spec_of
    from edgevit.split.prune import prune

    spec = spec_of(trunk)
    module = SubModel(prune(trunk, importance, hp, classes)).eval()
    attach_spec(module, replace(spec, name=f"{spec.name}-hp{hp}", source="module", num_classes=classes + 1))
    return module


def exported(module: Any, out: Path) -> dict[str, Any]:
    """Bytes and MACs counted over the ONNX graph, and the file beside them."""
    import edgevit

    artifact = edgevit.export(module, "onnx", out=out, threads=1)
    entry = out / artifact.manifest.entry
    return {
        **count_graph(entry),
        "file_bytes": sum(path.stat().st_size for path in out.glob("*.onnx*")),
        "artifact_bytes": artifact.size_bytes(),
        "parity": artifact.manifest.parity.status,
        "error": artifact.manifest.parity.max_rel,
    }


def count_graph(path: Path) -> dict[str, int]:
    """Weight bytes and MACs of an ONNX graph with batch 1. ValueError for an operator that this does not count."""
    import onnx

    model = onnx.load(path)
    graph = model.graph
    weights = {one.name: tuple(one.dims) for one in graph.initializer}
    floats = [one for one in graph.initializer if one.data_type == onnx.TensorProto.FLOAT]
    weight_bytes = sum(4 * math.prod(one.dims) for one in floats)
    values = [*graph.value_info, *graph.input, *graph.output]
    shapes = {one.name: tuple(d.dim_value for d in one.type.tensor_type.shape.dim) for one in values} | weights
    macs = 0
    for node in graph.node:
        if node.op_type in ("Einsum", "Attention", "MultiHeadAttention", "FusedMatMul"):
            raise ValueError(f"{path} holds {node.op_type}, which is not counted here")
        if node.op_type in ("MatMul", "Gemm", "Conv"):
            macs += node_macs(node, shapes)
    return {"weight_bytes": weight_bytes, "macs": macs}


def node_macs(node: Any, shapes: dict[str, tuple[int, ...]]) -> int:
    """Outputs times the length of the sum that each of them is."""
    out, weight = shapes[node.output[0]], shapes[node.input[1]]
    if 0 in out:
        raise ValueError(f"{node.name} has no fixed shape")
    if node.op_type == "Conv":
        return math.prod(out) * math.prod(weight[1:])
    return math.prod(out) * shapes[node.input[0]][-1]


def peak_gib() -> float:
    """Of this process and of the largest of its workers; they run one after another, the larger counts."""
    usage = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return max(usage) / 2**20


# --- speed -----------------------------------------------------------------------------------------------------------


def speed(schedule: Schedule) -> dict[str, Any]:
    """ViT-Base and its ten sub-models in turns, one thread each. Random scores: ten parts with weights of their own."""
    import torch

    import edgevit
    from edgevit.split.importance import random_importance

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="edgevit-edvit-speed-") as scratch:
        trunk = random_trunk("vit_base")
        modules = {"trunk": trunk}
        for part in range(CLASSES):
            modules[f"part-{part}"] = sub_model(trunk, random_importance(trunk, part), HEADLINE, 1)
        built = {name: exported(module, Path(scratch) / name) for name, module in modules.items()}
        sessions = {name: edgevit.open_session(Path(scratch) / name, threads=1) for name in modules}
        inputs, _ = edgevit.Artifact.open(Path(scratch) / "trunk").golden()
        feed = {"image": inputs["image"][:1]}
        calls = {name: (lambda session=session: session.infer(feed)) for name, session in sessions.items()}
        taken = interleave(calls, schedule)
        for session in sessions.values():
            session.close()
        parts = [name for name in modules if name != "trunk"]
        slowest = max(parts, key=taken.p50_ms)
        by_operator = {name: operator_ms(Path(scratch) / name, feed) for name in ("trunk", slowest)}
    ratio = taken.compare(slowest, "trunk").ratio
    macs_ratio = built["trunk"]["macs"] / built[slowest]["macs"]
    print(f"trunk {taken.p50_ms('trunk'):.1f} ms, slowest sub-model {slowest} {taken.p50_ms(slowest):.2f} ms")
    print(f"{ratio.value:.1f}× ({ratio.low:.1f}–{ratio.high:.1f}) faster; MACs ÷ {macs_ratio:.1f}")
    for name, operators in by_operator.items():
        rate = built[name]["macs"] / taken.p50_ms(name) / 1e6
        print(f"{name}: {rate:.1f} GMAC/s; {', '.join(f'{op} {ms:.2f} ms' for op, ms in list(operators.items())[:6])}")
    return {
        "schedule": asdict(schedule),
        "p50_ms": {name: taken.p50_ms(name) for name in modules},
        "slowest": slowest,
        "speedup": asdict(ratio),
        "wanted": WANTED_SPEEDUP,
        "passed": ratio.value >= WANTED_SPEEDUP,
        "macs_ratio": macs_ratio,
        "size_ratio": built["trunk"]["weight_bytes"] / built[slowest]["weight_bytes"],
        "gmacs_per_s": {name: built[name]["macs"] / taken.p50_ms(name) / 1e6 for name in by_operator},
        "operator_ms": by_operator,
        "artifacts": built,
        "block_medians_ms": {name: taken.block_medians(name) for name in ("trunk", slowest)},
    }


def operator_ms(folder: Path, feed: dict[str, Any], runs: int = 10) -> dict[str, float]:
    """ONNX Runtime's own trace: milliseconds per inference by operator, largest first."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.enable_profiling = 1, True
    options.profile_file_prefix = str(folder / "trace")
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    for _ in range(runs):
        session.run(None, feed)
    events = json.loads(Path(session.end_profiling()).read_text())
    found: Counter[str] = Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            found[event["args"]["op_name"]] += event["dur"] / 1000 / runs
    return {name: round(ms, 4) for name, ms in found.most_common()}


# --- scores ----------------------------------------------------------------------------------------------------------


def scores(weights: Path, images: int) -> dict[str, Any]:
    """Both estimators on ``images`` training digits of five classes, and the baselines' agreement with them."""
    import torch

    from edgevit.data.source import open_data
    from edgevit.models.spec import spec_of
    from edgevit.split.importance import (
        exact_importance,
        magnitude_importance,
        random_importance,
        rank_correlation,
        taylor_importance,
    )
    from edgevit.split.trunk import load_trunk

    torch.set_num_threads(1)
    trunk = load_trunk(ModelChoice("vit_edvit", weights=str(weights)))
    data = open_data("digits", split="train")
    mine = np.flatnonzero(np.asarray(data.labels) < 5)
    chosen = data.take(mine[np.linspace(0, len(mine) - 1, images).round().astype(np.int64)])
    batch = torch.from_numpy(spec_of(trunk).preprocess.batch(list(chosen.images)))
    estimators: dict[str, Callable[[], Any]] = {
        "exact": lambda: exact_importance(trunk, batch),
        "taylor": lambda: taylor_importance(trunk, batch),
        "magnitude": lambda: magnitude_importance(trunk),
        "random": lambda: random_importance(trunk, 0),
    }
    found = {name: estimate() for name, estimate in estimators.items()}
    rows = {
        name: {
            "seconds": one.seconds,
            "passes": one.passes,
            "rank_correlation_with_exact": rank_correlation(found["exact"], one),
        }
        for name, one in found.items()
    }
    for name, values in rows.items():
        agreement = ", ".join(f"{kind} {rho:.3f}" for kind, rho in values["rank_correlation_with_exact"].items())
        print(f"{name:10} {values['seconds']:8.2f} s {values['passes']:8.1f} passes   Spearman with exact: {agreement}")
    return {"weights": weights.name, "images": images, "estimators": rows}


if __name__ == "__main__":
    main()
