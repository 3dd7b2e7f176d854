"""The state of an unfinished run, kept beside its checkpoint as ``NAME.resume`` and replaced every few epochs."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch

from edgevit.artifact.files import replaced
from edgevit.errors import UsageError


def save_state(path: Path, state: dict[str, Any], recipe: dict[str, Any]) -> None:
    """Replace ``path`` in one step, so that a run killed while saving still has its last state."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as scratch:
        torch.save({**state, "recipe": json.dumps(recipe, sort_keys=True)}, scratch)


def load_state(path: Path, recipe: dict[str, Any]) -> dict[str, Any]:
    """The saved state, if it is of a run with the same recipe. UsageError names the options that differ."""
    if not path.is_file():
        raise UsageError(f"nothing to resume: no {path}", hint="start without --resume")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        saved = json.loads(state["recipe"])
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError, TypeError) as exc:
        raise UsageError(f"{path} is not the state of a training run", hint="start over with --force") from exc
    differing = sorted(name for name in {*saved, *recipe} if saved.get(name) != recipe.get(name))
    if differing:
        was = ", ".join(f"{name} {saved.get(name)}" for name in differing)
        raise UsageError(
            f"{path} is of another run ({was})", hint="resume with the same options, or start over with --force"
        )
    return state
