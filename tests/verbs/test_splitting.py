"""What ``edgevit split`` makes of its words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from edgevit.cli import app
from edgevit.split import job


def test_epochs_are_those_of_the_sub_models_and_of_the_fusion_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Asked(Exception): ...

    seen: list[Any] = []

    def run_split(request: Any, progress: Any) -> None:
        seen.append(request.options)
        raise Asked

    monkeypatch.setattr(job, "run_split", run_split)
    for more in (("--epochs", "3"), ()):
        ran = CliRunner().invoke(app, ["split", "vit_nano", "--parts", "2", "-o", str(tmp_path / "b"), *more])
        assert isinstance(ran.exception, Asked), ran.output
    assert [(one.retraining.epochs, one.fusion.epochs) for one in seen] == [(3, 3), (None, None)]
