"""Rankings whose block times are made up."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from edgevit.profiles.ranking.answer import Ranking
from edgevit.profiles.ranking.record import Entrant, RankingRecord, Round

DEVICE = "Cortex-A76, 4 cores, aarch64, Linux"


def entrant(name: str, **facts: Any) -> Entrant:
    """One that was proved, called ``name``."""
    known: dict[str, Any] = {
        "artifact": name, "content": name, "model": "vit_nano", "target": "onnx", "precision": "fp32",
        "runtime": "spin", "version": "1", "provider": "cpu", "threads": 1, "computed": "fp32", "size": 1000,
        "parity": "verified", "max_rel": 3e-7, "tolerance": 1e-5,
    }  # fmt: skip
    return Entrant(**(known | facts))


def ranking(*rounds: Sequence[Sequence[float]], entrants: Sequence[Entrant] = (), **facts: Any) -> Ranking:
    """Of rounds of block times by entrant, who are called a, b, c, …"""
    entrants = entrants or [entrant(chr(ord("a") + place)) for place in range(len(rounds[0]))]
    known: dict[str, Any] = {
        "measured": "2026-01-02T03:04:05+00:00", "device": DEVICE, "environment": {"machine": "0badcafe"},
        "threads": 1, "batch": 1,
    }  # fmt: skip
    kept = [Round(blocks_ms=blocks, p50_ms=[median(times) for times in blocks]) for blocks in rounds]
    record = RankingRecord(**(known | facts), entrants=tuple(entrants), rounds=tuple(kept))
    return Ranking(record, tuple(one.artifact for one in entrants))
