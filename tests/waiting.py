"""Waiting for what another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_for(true: Callable[[], object], seconds: float = 20.0) -> None:
    """Until ``true()`` is; AssertionError after ``seconds``, which are for a busy machine and not for a figure."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not so within {seconds:g} s"
        time.sleep(0.01)
