"""What can be refused before torch is imported: names that are unknown, files that are there or are not."""

from __future__ import annotations

import os
from pathlib import Path

from edgevit.data.source import check_spec
from edgevit.disk import why
from edgevit.errors import UsageError
from edgevit.models.loading.choice import check as check_model
from edgevit.request import ModelChoice
from edgevit.train.options import TrainOptions


def check(model: str, data: str, out: Path, options: TrainOptions) -> None:
    """The errors of ``fit`` that show without a model or data being read."""
    check_out(out, options)
    check_model(ModelChoice(model, options.weights if options.weights is None else str(options.weights)))
    check_spec(data)


def resume_path(out: Path) -> Path:
    """Where the unfinished run that will write ``out`` keeps its state."""
    return out.with_name(out.name + ".resume")


def check_out(out: Path, options: TrainOptions) -> None:
    """UsageError for an ``-o`` that cannot be written, or would be written over."""
    try:
        _check_out(out, options)
    except OSError as exc:
        raise UsageError(f"{out} cannot be written: {why(exc)}", hint="check the path") from exc


def _check_out(out: Path, options: TrainOptions) -> None:
    if out.suffix not in (".safetensors", ".pt", ".pth"):
        raise UsageError(f"{out} is not a kind of weights file known here", hint="end it with .safetensors")
    if out.is_dir():
        raise UsageError(f"{out} is a folder", hint="name a file that ends with .safetensors")
    if options.force:
        if not options.resume:
            resume_path(out).unlink(missing_ok=True)
        return
    if os.path.lexists(out):
        raise UsageError(f"{out} exists", hint="choose another -o, or replace it with --force")
    if resume_path(out).exists() and not options.resume:
        raise UsageError(
            f"an unfinished run of {out} is kept in {resume_path(out)}", hint="add --resume, or start over with --force"
        )
