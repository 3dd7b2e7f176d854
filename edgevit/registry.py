"""Which targets can be built, which runtimes can run them, and whose models can be taken: inert rows, imported only
when used.

A third party adds a row from its own package with an entry point in the group ``edgevit.exporters``,
``edgevit.runtimes``, ``edgevit.sources`` or ``edgevit.quantizers`` whose object is a ``Row``. A plug-in cannot take the
name of a built-in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from edgevit.engines import apple
from edgevit.errors import EdgeVitError, MissingDependency, UnknownName, Unsupported

Kind = Literal["exporter", "runtime", "source", "task", "quantizer"]
Format = Literal["torch", "onnx"]  # what a model is given as: to be traced by torch, or as an ONNX file


@dataclass(frozen=True, slots=True)
class Here:
    """What this machine can do with a row: ``sentence`` says what, or why not ("needs macOS")."""

    able: bool
    sentence: str


@dataclass(frozen=True, slots=True)
class Row:
    """One target, runtime, source of models or quantiser.

    name      of a source: the prefix of its models' names, "timm" of timm:resnet18
    path      ``module:attribute`` of the Exporter or Runtime class; of a source, the function that makes its models
              (``edgevit.models.loading.published.Maker``); of a quantiser, an ``edgevit.quantize.methods.base.Method``
    install   what ``pip install`` needs to make it work, e.g. ``edgevit[export]``
    packages  the distributions it needs, "a|b" where either will do; ``edgevit targets`` shows the first one's version
    formats   for a runtime: the targets whose artifacts it opens, the preferred runtime of a target first in the table
    here      ``module:function`` returning a ``Here``, for what depends on more than packages: a GPU, the system.
              It imports nothing heavy. Without it, installed packages are enough.
    carries_code  opening its artifacts runs code of their builder's: they are signed, and opened if the key is known
    can_profile   False for a reference evaluator, whose time means nothing
    onnx          for an exporter: the distributions that it needs to build from an ONNX file; none where it takes none
    no_onnx       why it takes none
    """

    name: str
    path: str
    install: str
    packages: tuple[str, ...]
    summary: str
    formats: tuple[str, ...] = ()
    here: str = ""
    carries_code: bool = False
    can_profile: bool = True
    onnx: tuple[str, ...] = ()
    no_onnx: str = "it is built from PyTorch"

    @property
    def formats_taken(self) -> tuple[Format, ...]:
        """What an exporter builds from."""
        return ("torch", "onnx") if self.onnx else ("torch",)

    def needs(self, format: Format = "torch") -> tuple[str, ...]:
        """The distributions that it needs, for models of a format. Unsupported for one that it does not take."""
        if format not in self.formats_taken:
            raise Unsupported(
                f"{self.name} takes no ONNX file: {self.no_onnx}",
                hint="give the model as PyTorch (edgevit export --help says how), or build -t onnx",
            )
        return self.onnx if format == "onnx" else self.packages

    def missing(self, format: Format = "torch") -> tuple[str, ...]:
        """The needed distributions that are not installed here."""
        return absent(self.needs(format))

    def load(self, format: Format = "torch") -> Any:
        """The class behind ``path``, for models of a format.

        Raises MissingDependency with the pip line when a needed package is absent, Unsupported for a format that it
        does not take; a package that is installed but broken keeps its own error.
        """
        need(self.name, self.needs(format), self.install)
        return _named(self.path)

    def on_this_machine(self, format: Format = "torch") -> Here:
        """Whether it works here, for models of a format, and what it can do or lacks."""
        if missing := self.missing(format):
            return Here(False, f"needs {', '.join(missing)}")
        found: Here = _named(self.here)() if self.here else Here(True, self.summary)
        return found


def _named(path: str) -> Any:
    module, _, attribute = path.partition(":")
    return getattr(import_module(module), attribute)


# One module, several wheels: each brings other providers, and they are installed in place of one another.
ONNXRUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-qnn")

TENSORRTS = "tensorrt|tensorrt-cu13|tensorrt-cu12|tensorrt-rtx|tensorrt-rtx-cu13|tensorrt-rtx-cu12"
CUDA_PYTHONS = "cuda-bindings|cuda-python"

ONNX_FILE = ("onnx", "onnxscript", "|".join(ONNXRUNTIMES))  # what reads an ONNX file, rewrites it and answers for it

EXPORTERS: Mapping[str, Row] = {
    "onnx": Row(
        "onnx",
        "edgevit.export.onnx:OnnxExporter",
        "edgevit[export]",
        ("onnx", "onnxscript", "torch"),
        "ONNX graph, floats or integers, for ONNX Runtime and most other engines",
        onnx=ONNX_FILE,
    ),
    "tensorrt": Row(
        "tensorrt",
        "edgevit.export.tensorrt.exporter:TensorRtExporter",
        "edgevit[export,tensorrt]",
        (TENSORRTS, "onnx", "onnxscript", "torch", "cryptography"),
        "TensorRT-RTX engine built without a GPU, or TensorRT (untested by us) on one; fp32 or fp16",
        here="edgevit.export.tensorrt.here:here",
        carries_code=True,
        onnx=(TENSORRTS, *ONNX_FILE, "cryptography"),
    ),
    "coreml": Row(
        "coreml",
        "edgevit.export.coreml.exporter:CoreMlExporter",
        "edgevit[export,coreml]",
        ("coremltools", "torch"),
        f"Core ML mlprogram package, fp16 or fp32, for {apple.RUNS_ON}",
        here="edgevit.export.coreml.here:here",
        no_onnx="Core ML is built from PyTorch",
    ),
    "openvino": Row(
        "openvino",
        "edgevit.export.openvino.exporter:OpenVinoExporter",
        "edgevit[export,openvino]",
        ("openvino", "onnx", "onnxscript", "torch"),
        "OpenVINO IR, fp32, fp16 weights, bf16 or int8, for Intel's processors and GPUs and any other CPU",
        onnx=("openvino", *ONNX_FILE),
    ),
    "tvm": Row(
        "tvm",
        "edgevit.export.tvm.exporter:TvmExporter",
        "edgevit[export,tvm]",
        ("apache-tvm", "apache-tvm-ffi", "torch", "cryptography"),
        "fp32 native library compiled by TVM with edgevit's own CPU schedules, tuned on request",
        here="edgevit.export.tvm.here:here",
        carries_code=True,
        no_onnx="its schedules and the names of its layers come from a program that torch traced",
    ),
}

RUNTIMES: Mapping[str, Row] = {
    "onnxruntime": Row(
        "onnxruntime",
        "edgevit.runtimes.onnxruntime:OnnxRuntime",
        "edgevit",
        ("|".join(ONNXRUNTIMES),),
        "ONNX Runtime, CPU by default, any other provider by name",
        formats=("onnx",),
    ),
    "openvino": Row(
        "openvino",
        "edgevit.runtimes.openvino.device:OpenVinoRuntime",
        "edgevit[openvino]",
        ("openvino",),
        "OpenVINO, CPU by default; computes in the precision it states",
        formats=("openvino", "onnx"),
    ),
    "tensorrt": Row(
        "tensorrt",
        "edgevit.runtimes.tensorrt.device:TensorRtRuntime",
        "edgevit[tensorrt]",
        (TENSORRTS, CUDA_PYTHONS, "cryptography"),
        "TensorRT or TensorRT-RTX on an NVIDIA GPU; not yet run by us",
        formats=("tensorrt",),
        here="edgevit.runtimes.tensorrt.here:here",
        carries_code=True,
    ),
    "coreml": Row(
        "coreml",
        "edgevit.runtimes.coreml.device:CoreMlRuntime",
        "edgevit[coreml]",
        ("coremltools",),
        "Core ML on macOS: CPU, GPU and Neural Engine",
        formats=("coreml",),
        here="edgevit.runtimes.coreml.here:here",
    ),
    "coreml-reference": Row(
        "coreml-reference",
        "edgevit.runtimes.coreml.evaluator:ReferenceEvaluator",
        "edgevit[coreml]",
        ("coremltools",),
        "reference evaluator: proves a Core ML package on any machine, says nothing about speed",
        formats=("coreml",),
        here="edgevit.runtimes.coreml.here:here_reference",
        can_profile=False,
    ),
    "tvm": Row(
        "tvm",
        "edgevit.runtimes.tvm.device:TvmRuntime",
        "edgevit[tvm]",
        ("apache-tvm", "apache-tvm-ffi", "cryptography"),
        "TVM's runtime, on the processor the library was compiled for",
        formats=("tvm",),
        here="edgevit.runtimes.tvm.here:here",
        carries_code=True,
    ),
    "torch": Row(
        "torch",
        "edgevit.runtimes.torch:TorchRuntime",
        "edgevit[export]",
        ("torch",),
        "the artifact's source model, run eagerly: the reference on build hosts",
        formats=("*",),
    ),
}

SOURCES: Mapping[str, Row] = {
    "timm": Row(
        "timm",
        "edgevit.models.loading.timm_models:timm_model",
        "edgevit[timm]",
        ("timm",),
        "timm's models, its hub's and those of a folder",
    ),
    "torchvision": Row(
        "torchvision",
        "edgevit.models.loading.torchvision_models:torchvision_model",
        "edgevit[torchvision]",
        ("torchvision",),
        "torchvision's image models",
    ),
    "hf": Row(
        "hf",
        "edgevit.models.loading.hf_models:hf_model",
        "edgevit[hf]",
        ("transformers",),
        "transformers' image models, by hub id or folder",
    ),
}


TASKS: Mapping[str, Row] = {
    name: Row(name, f"edgevit.tasks.{name}:{name.title()}", "edgevit", (), summary)
    for name, summary in {
        "classify": "which of the classes an image shows",
        "embed": "vectors that say what an image is like",
        "segment": "the class of every pixel",
        "detect": "boxes around objects, and their classes",
        "restore": "a larger or cleaner picture",
        "depth": "how far away every pixel is",
        "tensors": "outputs of which nothing more is known",
    }.items()
}

QUANTIZERS: Mapping[str, Row] = {
    name: Row(name, f"edgevit.quantize.methods.{path}", "edgevit[export]", ("torch",), summary)
    for name, path, summary in (
        ("plain", "base:Plain", "ranges as the observer finds them, weights as they are"),
        ("bias", "ridge:Bias", "biases moved by what integers miss on average"),
        ("ridge", "ridge:Ridge", "weights fitted by ridge regression to what integers miss, in order (ERQ's Aqer)"),
    )
}


def version_of(package: str) -> str | None:
    """The installed version of a distribution (of the first that is there, for "a|b"), or None."""
    for name in package.split("|"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def own_version() -> str:
    """Of edgevit itself; "unknown" where it runs from a folder that was never installed."""
    return version_of("edgevit") or "unknown"


def pip_line(requirement: str) -> str:
    """What installs "edgevit[tvm]", or another package, here: from where this edgevit came from (PEP 610), which is an
    index only where pip says nothing of it."""
    name, bracket, extras = requirement.partition("[")
    origin = _origin() if name == "edgevit" else {}
    url = str(origin.get("url", ""))
    if not url:
        return f"pip install '{requirement}'" if bracket else f"pip install {requirement}"
    if origin.get("dir_info", {}).get("editable"):
        return f"pip install -e '{unquote(urlsplit(url).path)}{bracket}{extras}'"
    revision = origin.get("vcs_info", {})
    source = f"{revision['vcs']}+{url}@{revision['commit_id']}" if revision else url
    return f"pip install '{requirement} @ {source}'"


def newer_line() -> str:
    """How to come by a newer edgevit."""
    url = _origin().get("url")
    return f"install a newer edgevit here (this one came from {url})" if url else "pip install -U edgevit"


def _origin() -> dict[str, Any]:
    """What pip wrote of where edgevit came from; nothing for an index, or for a folder that was never installed."""
    try:
        found = metadata.distribution("edgevit").read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return {}
    return dict(json.loads(found)) if found else {}


def absent(packages: tuple[str, ...]) -> tuple[str, ...]:
    """Those of ``packages`` that are not installed here, "a|b" by its first name."""
    return tuple(package.partition("|")[0] for package in packages if version_of(package) is None)


def need(what: str, packages: tuple[str, ...], install: str) -> None:
    """MissingDependency with the pip line unless every distribution is installed."""
    if missing := absent(packages):
        raise MissingDependency(f"{what} needs {', '.join(missing)}, not installed here", hint=pip_line(install))


def need_torch(what: str) -> None:
    """MissingDependency where models cannot be loaded, which ``what`` needs."""
    need(what, ("torch", "safetensors"), "edgevit[export]")


def rows(kind: Kind) -> dict[str, Row]:
    """Built-in rows, then those of installed plug-ins."""
    tables = {"exporter": EXPORTERS, "runtime": RUNTIMES, "source": SOURCES, "task": TASKS, "quantizer": QUANTIZERS}
    found = dict(tables[kind])
    for point in metadata.entry_points(group=f"edgevit.{kind}s"):
        if point.name in found:
            continue
        row = point.load()
        if not isinstance(row, Row) or row.name != point.name:
            raise EdgeVitError(
                f"the plug-in {point.value} does not offer a Row named {point.name!r}",
                hint=f"make {point.value} an edgevit.registry.Row, or uninstall {point.dist and point.dist.name}",
            )
        found[point.name] = row
    return found


def row(kind: Kind, name: str) -> Row:
    """The row called ``name``; UnknownName with the nearest names otherwise."""
    known = rows(kind)
    if name not in known:
        raise UnknownName("target" if kind == "exporter" else kind, name, known)
    return known[name]


def runtimes_for(target: str) -> list[str]:
    """Names of the runtimes that open artifacts of ``target``, the preferred one first."""
    exact = [name for name, row in rows("runtime").items() if target in row.formats]
    return exact + [name for name, row in rows("runtime").items() if "*" in row.formats and name not in exact]


def describe() -> list[dict[str, Any]]:
    """One record per exporter and runtime for ``edgevit targets``: what is here, and the pip line for what is not."""
    found = []
    kinds: tuple[Kind, ...] = ("exporter", "runtime")
    for kind in kinds:
        for row in rows(kind).values():
            missing, here = row.missing(), row.on_this_machine()
            found.append(
                {
                    "name": row.name,
                    "kind": kind,
                    "available": not missing,
                    "version": version_of(row.packages[0]) if row.packages else None,
                    "can_build": kind == "exporter" and here.able,
                    "can_run": kind == "runtime" and here.able,
                    "can_profile": kind == "runtime" and here.able and row.can_profile,
                    "reason": None if here.able else here.sentence,
                    "install": pip_line(row.install),
                    "takes": list(row.formats_taken) if kind == "exporter" else [],
                    "summary": row.summary,
                    "here": here.sentence,
                }
            )
    return found
