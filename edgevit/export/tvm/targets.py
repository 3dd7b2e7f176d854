"""Which machine a TVM build is for: this one with its real features, a cross target, or what the user spells out.

A ``BuildTarget`` is plain data; ``tvm()`` makes TVM's own object of it. ``lock`` is what a device checks before it
loads the code: instruction set and CPU features, by the names the Linux kernel gives them in /proc/cpuinfo.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import tvm
from tvm.target import codegen

from edgevit import cpu
from edgevit.errors import UnknownName, Unsupported, UsageError, first_line

# LLVM's name of a feature -> the kernel's. Only those that the code generator may use for our kernels: a machine that
# lacks one of the others runs the code all the same.
X86_FEATURES: Mapping[str, str] = {
    "ssse3": "ssse3",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
    "popcnt": "popcnt",
    "movbe": "movbe",
    "lzcnt": "abm",
    "bmi": "bmi1",
    "bmi2": "bmi2",
    "avx": "avx",
    "f16c": "f16c",
    "fma": "fma",
    "fma4": "fma4",
    "xop": "xop",
    "tbm": "tbm",
    "avx2": "avx2",
    "gfni": "gfni",
    "avxvnni": "avx_vnni",
    "avx512f": "avx512f",
    "avx512cd": "avx512cd",
    "avx512bw": "avx512bw",
    "avx512dq": "avx512dq",
    "avx512vl": "avx512vl",
    "avx512ifma": "avx512ifma",
    "avx512vbmi": "avx512vbmi",
    "avx512vbmi2": "avx512_vbmi2",
    "avx512vnni": "avx512_vnni",
    "avx512bitalg": "avx512_bitalg",
    "avx512vpopcntdq": "avx512_vpopcntdq",
    "avx512vp2intersect": "avx512_vp2intersect",
    "avx512bf16": "avx512_bf16",
    "avx512fp16": "avx512_fp16",
    "amx-tile": "amx_tile",
    "amx-int8": "amx_int8",
    "amx-bf16": "amx_bf16",
}
ARM_FEATURES: Mapping[str, str] = {
    "neon": "asimd",
    "fullfp16": "asimdhp",
    "dotprod": "asimddp",
    "lse": "atomics",
    "crc": "crc32",
    "rdm": "asimdrdm",
    "sve": "sve",
    "sve2": "sve2",
    "bf16": "bf16",
    "i8mm": "i8mm",
    "sme": "sme",
}
ARMV7_FEATURES: Mapping[str, str] = {"neon": "neon", "vfp4": "vfpv4", "hwdiv-arm": "idiva", "hwdiv": "idivt"}
FEATURES: Mapping[str, Mapping[str, str]] = {
    "x86_64": X86_FEATURES,
    "aarch64": ARM_FEATURES,
    "armv7": ARMV7_FEATURES,
}

CROSS_CORES = 4  # of the boards that the cross targets stand for; tvm.target says otherwise
CROSS: Mapping[str, Mapping[str, Any]] = {
    "aarch64": {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72", "mattr": ["+neon"]},
    "armv7": {
        "kind": "llvm",
        "mtriple": "armv7-linux-gnueabihf",
        "mcpu": "cortex-a7",
        "mattr": ["+neon", "+vfp4"],
        "mfloat-abi": "hard",
    },
}
ARCHES = ("host", *CROSS)
PACKAGES = ("apache-tvm", "apache-tvm-ffi")


@dataclass(frozen=True)
class BuildTarget:
    """One machine to build for.

    config  TVM's target as a dictionary, "kind" and "num-cores" always among its keys
    arch    "x86_64", "aarch64", "armv7" …: of the CPU that loads the file, also for CUDA
    host    whether it was made for this machine
    """

    config: Mapping[str, Any]
    arch: str
    host: bool

    def tvm(self) -> tvm.target.Target:
        """TVM's own target; UsageError when TVM does not take the configuration."""
        try:
            return tvm.target.Target(dict(self.config))
        except Exception as exc:
            raise _refused(json.dumps(self.config), exc) from exc

    @property
    def kind(self) -> str:
        """ "llvm" or "cuda"."""
        return str(self.config["kind"])

    @property
    def cores(self) -> int:
        """Cores that the schedules are parallelised for."""
        return int(self.config["num-cores"]) if "num-cores" in self.config else 1

    def features(self) -> tuple[str, ...]:
        """CPU features that the code may use, by their names in /proc/cpuinfo, sorted."""
        cpu = self.config if self.kind == "llvm" else self.config["host"]
        known = FEATURES.get(self.arch, {})
        used = codegen.llvm_get_cpu_features(tvm.target.Target(dict(cpu)))
        return tuple(sorted(known[name] for name in map(str, used) if name in known))

    def family(self) -> str:
        """The class of machines that tuned records are shared by: "x86_64-avx2", "aarch64-neon", "cuda" …"""
        if self.kind != "llvm":
            return self.kind
        features = self.features()
        widest = next((found for name, found in _FAMILIES if name in features), "generic")
        return f"{self.arch}-{widest}"

    def lock(self) -> dict[str, str | int | list[int]]:
        """What the device checks before it loads the code."""
        found: dict[str, str | int | list[int]] = {
            "arch": self.arch,
            "system": self.system(),
            "features": ",".join(self.features()),
            "mcpu": str(self.config.get("mcpu", "generic")),
            "device": "cuda" if self.kind == "cuda" else "cpu",
            "cores": self.cores,
        }
        return found | {package: metadata.version(package) for package in PACKAGES}

    def system(self) -> str:
        """The operating system whose loader takes the file: "linux", "darwin" …"""
        triple = str((self.config if self.kind == "llvm" else self.config["host"]).get("mtriple", ""))
        return "darwin" if "darwin" in triple or "macos" in triple else "linux" if "linux" in triple else sys.platform

    def describe(self) -> str:
        """The target in one line, for notes and progress."""
        return f"{self.family()} ({self.config.get('mcpu', 'generic')}, {self.cores} cores)"


_FAMILIES = (
    ("avx512f", "avx512"),
    ("avx2", "avx2"),
    ("avx", "avx"),
    ("sse4_1", "sse4"),
    ("sve", "sve"),
    ("asimd", "neon"),
    ("neon", "neon"),
)


def choose(*, arch: str = "host", target: str = "", cores: int) -> BuildTarget:
    """The target for the options ``tvm.arch`` and ``tvm.target`` (empty: not given), with ``cores`` for this machine.

    UnknownName for an arch that is not in ``ARCHES``, UsageError for a target that TVM refuses, Unsupported for CUDA
    where there is no GPU.
    """
    if target:
        if arch != "host":
            raise UsageError("tvm.arch and tvm.target exclude one another", hint="leave tvm.arch out")
        return spelled(target, cores)
    if arch == "host":
        return host(cores)
    if arch not in CROSS:
        raise UnknownName("tvm.arch", arch, ARCHES)
    return BuildTarget({**CROSS[arch], "num-cores": CROSS_CORES}, arch, host=False)


def host(cores: int) -> BuildTarget:
    """This machine: LLVM's name of its CPU, less the features that the kernel does not list (a virtual machine hides
    some), plus those that the name does not promise."""
    arch = cpu.arch()
    triple = (
        f"{arch}-linux-gnu" if sys.platform == "linux" and arch in FEATURES else str(codegen.llvm_get_system_triple())
    )
    if arch == "armv7" and sys.platform == "linux":
        triple = "armv7-linux-gnueabihf"
    config: dict[str, Any] = {"kind": "llvm", "mtriple": triple, "mcpu": str(codegen.llvm_get_system_cpu())}
    if changes := corrections(config, arch, cpu.flags()):
        config["mattr"] = changes
    return BuildTarget({**config, "num-cores": max(1, cores)}, arch, host=True)


def corrections(config: Mapping[str, Any], arch: str, flags: frozenset[str]) -> list[str]:
    """``mattr`` entries that make the features of ``config`` those that the kernel lists; none where it lists none."""
    if not flags:
        return []
    promised = set(map(str, codegen.llvm_get_cpu_features(tvm.target.Target(dict(config)))))
    known = FEATURES.get(arch, {})
    less = [f"-{name}" for name, flag in known.items() if name in promised and flag not in flags]
    more = [f"+{name}" for name, flag in known.items() if name not in promised and flag in flags]
    return less + more


def spelled(text: str, cores: int) -> BuildTarget:
    """A target as TVM spells it: a tag ("raspberry-pi/4b-aarch64"), a kind ("llvm", "cuda"), JSON, or the older
    ``llvm -mcpu=… -mattr=…``, which TVM itself no longer reads."""
    text = text.strip()
    if text == "cuda":
        return cuda(cores)
    config = _plain(_cpu_target(text))
    arch = triple_arch(str(config.get("mtriple") or codegen.llvm_get_system_triple()))
    if "mcpu" in config and not codegen.llvm_is_valid_cpu(config["mcpu"], str(config.get("mtriple", ""))):
        raise UsageError(
            f"LLVM knows no CPU {config['mcpu']!r} for {arch}",
            hint="mcpu is LLVM's name, for example cortex-a76 or znver3",
        )
    config.setdefault("num-cores", cores)
    return BuildTarget(config, arch, host=False)


def _cpu_target(text: str) -> tvm.target.Target:
    try:
        made = tvm.target.Target(_from_flags(text) if " -" in text else json.loads(text) if text[:1] == "{" else text)
    except Exception as exc:
        raise _refused(text, exc) from exc
    if made.kind.name != "llvm":
        raise Unsupported(
            f"the TVM target {made.kind.name} is not one that edgevit builds",
            hint="use an llvm target, or tvm.target=cuda",
        )
    return made


def cuda(cores: int) -> BuildTarget:
    """The NVIDIA GPU of this machine with this machine's CPU as its host; Unsupported where there is none."""
    if not tvm.cuda(0).exist:
        raise Unsupported(
            "tvm.target=cuda needs an NVIDIA GPU on the build host", hint="build on the device, or leave tvm.target out"
        )
    beside = host(cores)
    config = _plain(tvm.target.Target.from_device(tvm.cuda(0)))
    return BuildTarget({**config, "host": dict(beside.config)}, beside.arch, host=True)


def _plain(target: tvm.target.Target) -> dict[str, Any]:
    """The configuration of a target without what TVM derives from it: derived entries are refused on the way in."""
    exported = json.loads(str(target))
    keep = ("kind", "mtriple", "mcpu", "mattr", "mfloat-abi", "mabi", "num-cores", "arch", "max_threads_per_block")
    extra = ("max_shared_memory_per_block", "thread_warp_size", "l2_cache_size_bytes")
    return {key: exported[key] for key in (*keep, *extra) if key in exported}


def _from_flags(text: str) -> dict[str, Any]:
    """``llvm -mcpu=X -mattr=+a,+b -num-cores 4`` as a dictionary."""
    kind, *words = text.replace("=", " ").split()
    if len(words) % 2 or any(not word.startswith("-") for word in words[::2]):
        raise ValueError("every option needs a value")
    found: dict[str, Any] = {"kind": kind}
    for key, value in zip((word.lstrip("-") for word in words[::2]), words[1::2], strict=True):
        found["mfloat-abi" if key == "float-abi" else key] = (
            value.split(",") if key == "mattr" else int(value) if value.isdigit() else value
        )
    return found


def _refused(text: str, exc: Exception) -> UsageError:
    said = first_line(exc).rstrip(". ")
    return UsageError(
        f"TVM does not take the target {text!r}: {said}",
        hint='for example tvm.target=\'{"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a76"}\'',
    )


def triple_arch(triple: str) -> str:
    """The instruction set of an LLVM triple in our names; the triple's own where we have none."""
    first = triple.partition("-")[0]
    if first in ("x86_64", "amd64"):
        return "x86_64"
    if first in ("aarch64", "arm64"):
        return "aarch64"
    return "armv7" if first.startswith(("armv7", "armv8l", "armhf")) or first == "arm" else first
