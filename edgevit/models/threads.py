"""How many threads torch computes with, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from edgevit.cpu import checked_threads, usable_cores


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """``count`` threads inside the block; None leaves them as they are, but for those that no core can run."""
    before = torch.get_num_threads()
    torch.set_num_threads(checked_threads(count) if count else min(before, usable_cores()))
    try:
        yield
    finally:
        torch.set_num_threads(before)
