"""From TVM's object files to a shared library: the linker of the target, and what the result really is.

The linker is the C++ compiler of the distribution: ``g++`` for this machine, a cross compiler for another one.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit import cpu
from edgevit.errors import ExportFailed, MissingDependency, Unsupported

if TYPE_CHECKING:
    from edgevit.export.tvm.targets import BuildTarget

LINK_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Toolchain:
    """A C++ compiler that links for one instruction set, and the Debian package that brings it."""

    command: str
    package: str


CROSS_TOOLCHAINS: Mapping[str, Toolchain] = {
    "x86_64": Toolchain("x86_64-linux-gnu-g++", "g++-x86-64-linux-gnu"),
    "aarch64": Toolchain("aarch64-linux-gnu-g++", "g++-aarch64-linux-gnu"),
    "armv7": Toolchain("arm-linux-gnueabihf-g++", "g++-arm-linux-gnueabihf"),
}
NATIVE = Toolchain("g++", "g++")

_MACHINES = {3: "x86", 40: "armv7", 62: "x86_64", 183: "aarch64", 243: "riscv"}  # e_machine of the ELF header
_MACH_O = {0x01000007: "x86_64", 0x0100000C: "aarch64"}  # cputype of a 64-bit Mach-O header


def find_linker(arch: str) -> str:
    """The path of the compiler that links for ``arch``. MissingDependency with the apt line when it is not installed,
    Unsupported for an instruction set we know no toolchain of."""
    here = cpu.arch()
    if arch != here and arch not in CROSS_TOOLCHAINS:
        raise Unsupported(
            f"no linker is known for {arch}", hint=f"known: {', '.join(sorted({here, *CROSS_TOOLCHAINS}))}"
        )
    chain = NATIVE if arch == here else CROSS_TOOLCHAINS[arch]
    if found := shutil.which(chain.command):
        return found
    raise MissingDependency(
        f"linking for {arch} needs {chain.command}, not installed here", hint=f"sudo apt-get install {chain.package}"
    )


def link(library: Any, out: Path, target: BuildTarget) -> None:
    """Write ``library`` (anything with TVM's ``export_library``) as the shared object ``out``.

    MissingDependency without a linker, ExportFailed when linking fails or gives another instruction set.
    """
    compiler = find_linker(target.arch)

    def shared(output: str, objects: list[str], **_: Any) -> None:
        command = [compiler, "-shared", "-fPIC", "-o", output, *objects, "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LINK_TIMEOUT_S, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ExportFailed(f"linking {out.name} failed: {last[:300]}", hint=f"see that {compiler} works")

    library.export_library(str(out), fcompile=shared)
    check_arch(out, target.arch)


def check_arch(path: Path, arch: str) -> None:
    """ExportFailed unless the shared object at ``path`` is for ``arch``."""
    if (found := object_arch(path)) != arch:
        raise ExportFailed(f"{path.name} came out for {found}, not for {arch}", hint="check tvm.target")


def object_arch(path: Path) -> str:
    """The instruction set in the header of a shared object (ELF, or 64-bit Mach-O); ExportFailed for another file."""
    with path.open("rb") as file:
        head = file.read(20)
    if head[:4] == b"\x7fELF" and len(head) == 20:
        order = "<" if head[5] == 1 else ">"
        (machine,) = struct.unpack_from(f"{order}H", head, 18)
        return _MACHINES.get(machine, f"ELF machine {machine}")
    if head[:4] == b"\xcf\xfa\xed\xfe" and len(head) >= 8:
        (cpu,) = struct.unpack_from("<I", head, 4)
        return _MACH_O.get(cpu, f"Mach-O CPU {cpu:#x}")
    raise ExportFailed(f"{path.name} is no shared object", hint="export anew")
