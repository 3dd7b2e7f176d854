"""Native compilers run in a process of their own, within what is left of the build's time."""

from __future__ import annotations

import time
from typing import Any

from edgevit import worker
from edgevit.errors import ExportFailed, WorkerFailed
from edgevit.export.base import Context


def run_compiler(
    function: str, job: dict[str, Any], context: Context, begun: float, *, title: str, faster: str = ""
) -> dict[str, Any]:
    """The answer of ``function`` ("module:name") to ``job``, from a worker. ``title`` is the compiler's for people.

    ``context.timeout_s`` counts from ``begun`` (``time.monotonic()``); ``faster`` says what else would help when that
    is over. Raises ExportFailed when it is, or when the worker fails, and what the function raises.
    """
    left = None if context.timeout_s is None else context.timeout_s - (time.monotonic() - begun)
    late = f"the {title} build did not finish within {context.timeout_s or 0:g} s"
    hint = "give it more with --timeout" + (f", or {faster}" if faster else "")
    if left is not None and left <= 0:
        raise ExportFailed(late, hint=hint)
    try:
        return worker.call(
            function, job, timeout=left, on_progress=lambda stage, done: context.progress(f"{title}: {stage}", done)
        )
    except WorkerFailed as exc:
        if "did not finish" in str(exc):
            raise ExportFailed(late, hint=hint) from exc
        raise ExportFailed(f"the {title} build failed: {exc}", hint=exc.hint or "please report this model") from exc
