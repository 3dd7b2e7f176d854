"""The first hour of a newcomer with an own model, an own checkpoint and own pictures."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / ".ci/first_hour.py"


def test_the_first_hour_ends_as_a_newcomer_expects(tmp_path: Path) -> None:
    walked = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])},
        capture_output=True,
        text=True,
    )
    assert walked.returncode == 0, walked.stdout + walked.stderr
    assert len(walked.stdout.splitlines()) > 15
