"""Install the example plug-in into a folder, as pip would into site-packages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PLUGIN = Path(__file__).parent / "edgevit_pt2"


def install(folder: Path, scratch: Path) -> None:
    """pip builds in the source folder, so a copy of it is built: the repository stays clean."""
    import shutil

    source = shutil.copytree(PLUGIN, scratch / "source")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(folder), str(source)], check=True)
