"""What an engine needs of the machine that runs it, and the one sentence that says what does not match."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edgevit.artifact.manifest import Manifest
from edgevit.artifact.opened import Artifact
from edgevit.engines.nvidia import FLAVORS, Flavor, Gpu
from edgevit.errors import BadArtifact, EdgeVitError, MissingDependency, Unsupported


@dataclass(frozen=True)
class Lock:
    """The manifest's ``lock``. ``accepts``: "same" TensorRT version, or the same or a "newer" one."""

    flavor: str
    version: str
    accepts: str
    sm: tuple[int, ...]
    platform: str
    cuda_driver: int
    driver: str
    sha256: str

    @property
    def package(self) -> Flavor:
        return FLAVORS[self.flavor]

    @property
    def gpus(self) -> str:
        """ "SM 8.6, 8.9 or 12.0"."""
        names = [f"{sm // 10}.{sm % 10}" for sm in self.sm]
        return f"SM {names[0] if len(names) == 1 else ', '.join(names[:-1]) + ' or ' + names[-1]}"


@dataclass(frozen=True)
class Machine:
    """What is here. ``versions``: flavour -> installed version."""

    gpu: Gpu | None
    versions: Mapping[str, str | None]
    platform: str


def this_machine(find_gpu: Callable[[], Gpu | None]) -> Machine:
    versions = {name: flavor.version() for name, flavor in FLAVORS.items()}
    return Machine(find_gpu(), versions, f"{platform.system()}-{platform.machine()}")


def _lock_of(found: Mapping[str, Any]) -> Lock:
    """KeyError or ValueError for a key that is missing, or no number where one must be."""
    sms = found["sm"]
    return Lock(
        flavor=str(found["flavor"]),
        version=str(found["version"]),
        accepts=str(found["accepts"]),
        sm=tuple(sms) if isinstance(sms, list) else (),
        platform=str(found["platform"]),
        cuda_driver=int(str(found["cuda_driver"])),
        driver=str(found["driver"]),
        sha256=str(found["sha256"]),
    )


def read_lock(artifact: Artifact) -> Lock:
    """The lock of a TensorRT artifact. BadArtifact when it is incomplete or is not of the engine beside it."""
    found = artifact.manifest.lock
    try:
        lock = _lock_of(found)
    except (KeyError, ValueError) as exc:
        raise BadArtifact(f"the lock of {artifact.path} lacks {exc}", hint="export anew") from exc
    if lock.flavor not in FLAVORS or not lock.sm:
        raise BadArtifact(f"the lock of {artifact.path} names no TensorRT or no GPU", hint="export anew")
    if artifact.manifest.files.get(artifact.manifest.entry) != lock.sha256:
        raise BadArtifact(f"the lock of {artifact.path} is of another engine", hint="export anew")
    return lock


def check_lock(lock: Lock, machine: Machine, manifest: Manifest) -> None:
    """Raise, in one sentence with the next step, for the first thing that does not match. The GPU comes first.

    Unsupported for the GPU, version, platform and driver; MissingDependency for a flavour that is not installed.
    """
    problem = _mismatch(lock, machine, manifest)
    if problem is not None:
        raise problem


def _mismatch(lock: Lock, machine: Machine, manifest: Manifest) -> EdgeVitError | None:
    gpu, flavor = machine.gpu, lock.package
    if gpu is None:
        return Unsupported(
            f"needs an NVIDIA GPU ({lock.gpus})",
            hint="copy the folder to a machine that has one, or use -t onnx, which runs on any",
        )
    installed = machine.versions[lock.flavor]
    if installed is None:
        return MissingDependency(
            f"this engine needs {flavor.title} {lock.version}, which is not installed here",
            hint=f"pip install {flavor.wheel}=={lock.version}",
        )
    if not version_fits(lock, installed):
        later = " or later" if lock.accepts == "newer" else ""
        return Unsupported(
            f"needs {flavor.title} {lock.version}{later}, here is {installed}",
            hint=f"pip install {flavor.wheel}=={lock.version}, or rebuild: {rebuild_command(lock, manifest, gpu)}",
        )
    return _other_machine(lock, machine, manifest, gpu)


def _other_machine(lock: Lock, machine: Machine, manifest: Manifest, gpu: Gpu) -> Unsupported | None:
    """What of the hardware and its driver the engine was not built for."""
    if gpu.sm not in lock.sm:
        return Unsupported(
            f"needs an NVIDIA GPU ({lock.gpus}), here is {gpu.name} (SM {gpu.sm // 10}.{gpu.sm % 10})",
            hint=f"rebuild: {rebuild_command(lock, manifest, gpu)}",
        )
    if lock.platform not in ("any", machine.platform):
        return Unsupported(
            f"needs {lock.platform}, where the engine was built; here is {machine.platform}",
            hint=f"rebuild: {rebuild_command(lock, manifest, gpu)}",
        )
    if gpu.cuda_driver < lock.cuda_driver:
        return Unsupported(
            f"needs an NVIDIA driver {lock.driver} or later (CUDA {_cuda(lock.cuda_driver)}), here is one for CUDA "
            f"{_cuda(gpu.cuda_driver)}",
            hint=f"update the driver, or install a {lock.package.title} for an older CUDA and rebuild: "
            f"{rebuild_command(lock, manifest, gpu)}",
        )
    return None


def version_fits(lock: Lock, installed: str) -> bool:
    """Whether the installed version opens the engine: the same one, or with ``accepts`` "newer" a later one."""
    if lock.accepts != "newer":
        return installed == lock.version
    return _numbers(installed) >= _numbers(lock.version)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _cuda(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def rebuild_command(lock: Lock, manifest: Manifest, gpu: Gpu) -> str:
    """The ``edgevit export`` line that makes this artifact for ``gpu``."""
    batch = f" --batch {manifest.batch}" if str(manifest.batch) != "1" else ""
    sm = f" --option tensorrt.sm={gpu.sm}" if lock.flavor == "rtx" else ""
    return (
        f"edgevit export {manifest.model.name} -t tensorrt --precision {manifest.precision}{batch} "
        f"--option tensorrt.flavor={lock.flavor}{sm}"
    )
