"""What a TVM artifact was built for against what this machine has, checked before its code is loaded.

Code for another instruction set would not load, and an instruction that this CPU lacks would kill the process.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import metadata

from edgevit import cpu
from edgevit.artifact.opened import Artifact
from edgevit.errors import BadArtifact, Unsupported

PACKAGES = ("apache-tvm", "apache-tvm-ffi")
_CALLED = {"linux": "Linux", "darwin": "macOS", "win32": "Windows"}


def check(artifact: Artifact) -> None:
    """Unsupported with one sentence ("needs …") and the command that rebuilds, unless this machine can run it."""
    lock = {key: str(value) for key, value in artifact.manifest.lock.items()}
    if missing := {"arch", "system", "features", "device", *PACKAGES} - lock.keys():
        raise BadArtifact(f"the manifest of {artifact.path} locks no {', '.join(sorted(missing))}", hint="export anew")
    rebuild = f"edgevit export {artifact.manifest.model.name} -t tvm"
    _check_machine(lock, rebuild)
    if lacking := lacking_features(lock["features"], cpu.flags()):
        raise Unsupported(
            f"needs a CPU with {', '.join(lacking)} (it was built for {lock.get('mcpu', 'another one')})",
            hint=f"for this machine: {rebuild}",
        )
    _check_versions(lock, rebuild)


def _check_machine(lock: Mapping[str, str], rebuild: str) -> None:
    if lock["arch"] != cpu.arch():
        article = "an" if lock["arch"][0] in "aeiou" else "a"
        raise Unsupported(
            f"needs {article} {lock['arch']} device, this one is {cpu.arch()}",
            hint=f"copy the folder to such a device, or for this machine: {rebuild}",
        )
    if lock["system"] != sys.platform:
        raise Unsupported(
            f"needs {_CALLED.get(lock['system'], lock['system'])}, this is {_CALLED.get(sys.platform, sys.platform)}",
            hint=f"for this machine: {rebuild}",
        )


def _check_versions(lock: Mapping[str, str], rebuild: str) -> None:
    """The code calls into TVM's libraries: the same release series of both packages has to be there."""
    for package in PACKAGES:
        installed = metadata.version(package)
        if _series(installed) != _series(lock[package]):
            pins = " ".join(f"'{name}=={lock[name]}'" for name in PACKAGES)
            raise Unsupported(
                f"needs {package} {_series(lock[package])}, {installed} is installed",
                hint=f"pip install {pins}, or {rebuild}",
            )


def _series(version: str) -> str:
    return ".".join(version.split(".")[:2])


def lacking_features(needed: str, present: frozenset[str]) -> list[str]:
    """Those of the comma-separated ``needed`` features that are not ``present``; none where nothing is known."""
    return [name for name in needed.split(",") if name and name not in present] if present else []
