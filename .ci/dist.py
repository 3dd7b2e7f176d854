"""``make dist``: dist/edgevit-VERSION.tar.gz and the wheel made from it, of what is committed; then a bare trial.

The same commit gives the same bytes. Everything that git tracks in the package is in the wheel, and nothing else is.
The trial installs the wheel in a new environment, away from the source tree, and asks it to verify an artifact.
"""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run(*command: object, cwd: Path = ROOT, **env: str) -> str:
    """What the command prints; its own words and the end of this script where it fails."""
    ran = subprocess.run(
        [str(part) for part in command], cwd=cwd, env={**os.environ, **env}, stdout=subprocess.PIPE, text=True
    )
    if ran.returncode:
        sys.exit(f"{' '.join(map(str, command))} ended with {ran.returncode}\n{ran.stdout}")
    return ran.stdout


def build(out: Path) -> Path:
    """The wheel of the commit that is checked out, in ``out`` beside its source; the same whenever they are made."""
    epoch = run("git", "log", "-1", "--format=%ct").strip()
    with tempfile.TemporaryDirectory(prefix="edgevit-dist-") as folder:
        source = Path(folder) / "source"
        source.mkdir()
        archive = Path(folder) / "source.tar"
        run("git", "-c", "tar.umask=0022", "archive", "-o", archive, "HEAD")
        run("tar", "-xf", archive, "-C", source)
        run(sys.executable, "-m", "build", "--no-isolation", "-o", out, source, SOURCE_DATE_EPOCH=epoch)
    (packed,) = out.glob("*.tar.gz")
    settle(packed, int(epoch))
    (wheel,) = out.glob("*.whl")
    return wheel


def settle(packed: Path, epoch: int) -> None:
    """The same files in order, with one time and no owner: setuptools leaves the time of the build in them."""
    settled = packed.with_suffix(".new")
    with (
        tarfile.open(packed) as old,
        settled.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=epoch) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for one in sorted(old.getmembers(), key=lambda one: one.name):
            one.mtime, one.uid, one.gid, one.uname, one.gname, one.pax_headers = epoch, 0, 0, "", "", {}
            new.addfile(one, old.extractfile(one) if one.isfile() else None)
    settled.replace(packed)


def check_files(wheel: Path) -> None:
    """The package in the wheel is what git tracks of it."""
    tracked = set(run("git", "ls-tree", "-r", "--name-only", "HEAD", "edgevit").split("\n")) - {""}
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("edgevit/")}
    if tracked != packed:
        sys.exit(f"{wheel.name} lacks {sorted(tracked - packed)} and has {sorted(packed - tracked)} too much")


def trial(wheel: Path, folder: Path) -> None:
    """A new environment with the wheel alone: it knows itself, and verifies an artifact that this one built."""
    artifact, bare = folder / "vit", folder / "bare"
    home = {"EDGEVIT_HOME": str(folder / "home"), "PYTHONPATH": ""}
    export = ("-m", "edgevit.cli", "export", "vit_nano", "--weights", "digits", "-t", "onnx", "-o", artifact)
    run(sys.executable, "-P", *export, cwd=folder, **{**home, "PYTHONPATH": str(ROOT)})
    run(sys.executable, "-m", "venv", "--without-pip", bare)
    run(sys.executable, "-m", "pip", "--python", bare / "bin/python", "install", "--quiet", "--no-compile", wheel)
    for verb in (["--version"], ["targets"], ["verify", artifact], ["predict", artifact, artifact / "golden/0.png"]):
        print(run(bare / "bin/edgevit", *verb, cwd=folder, **home), end="")


def main() -> None:
    out = ROOT / "dist"
    out.mkdir(exist_ok=True)
    for old in [*out.glob("edgevit-*.whl"), *out.glob("edgevit-*.tar.gz")]:
        old.unlink()
    if run("git", "status", "--porcelain"):
        print("note: what is not committed is not in it", file=sys.stderr)
    wheel = build(out)
    check_files(wheel)
    with tempfile.TemporaryDirectory(prefix="edgevit-trial-") as folder:
        trial(wheel, Path(folder))
    for made in sorted(out.glob("edgevit-*")):
        print(f"dist/{made.name}  {made.stat().st_size:,} bytes  sha256 {run('sha256sum', made)[:64]}")


if __name__ == "__main__":
    main()
