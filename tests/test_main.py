"""``python -m edgevit`` is the ``edgevit`` script."""

from __future__ import annotations

import subprocess
import sys


def test_the_package_runs_as_the_script_does_and_is_called_so() -> None:
    command = [sys.executable, "-m", "edgevit"]
    page = subprocess.run([*command, "export", "--help"], capture_output=True, text=True, check=True).stdout
    assert page.startswith("Usage: edgevit export")
    ran = subprocess.run([*command, "export", "resnet18"], capture_output=True, text=True)
    assert ran.returncode == 2
    assert "python -m" not in ran.stderr
