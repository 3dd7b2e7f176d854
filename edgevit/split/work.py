"""The work folder of a split, ``OUT.split``: finished sub-models and scores, so that a killed run goes on from them.

recipe.json               what the split was asked for; another recipe is refused
importance-0.safetensors  scores of the trunk's units for part 0
part-0.safetensors        the retrained sub-model, with its accuracy
part-0.resume             the state of a retraining that is not finished, after its last epoch
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from edgevit.artifact.files import replaced, write_atomically
from edgevit.errors import UsageError
from edgevit.foreign import read_json
from edgevit.split.importance import Importance


@dataclass(frozen=True)
class Work:
    """The folder of one recipe."""

    folder: Path

    def state(self, part: int) -> Path:
        return self.folder / f"part-{part}.resume"

    def finished(self, part: int) -> bool:
        return self._part(part).is_file()

    def save_part(self, part: int, state: Mapping[str, Tensor], accuracy: float) -> None:
        """Keep a retrained sub-model; its unfinished state is dropped."""
        _save(self._part(part), state, {"accuracy": repr(accuracy)})
        self.state(part).unlink(missing_ok=True)

    def load_part(self, part: int) -> tuple[dict[str, Tensor], float]:
        tensors, about = _load(self._part(part))
        return tensors, float(about["accuracy"])

    def save_importance(self, part: int, scores: Importance) -> None:
        tensors = {"residual": scores.residual}
        tensors |= {f"head_dims.{i}": one for i, one in enumerate(scores.head_dims)}
        tensors |= {f"hidden.{i}": one for i, one in enumerate(scores.hidden)}
        about = {"seconds": repr(scores.seconds), "passes": repr(scores.passes), "method": scores.method}
        _save(self._importance(part), tensors, about)

    def load_importance(self, part: int) -> Importance | None:
        """The scores of an earlier run; None where there are none."""
        if not self._importance(part).is_file():
            return None
        tensors, about = _load(self._importance(part))
        blocks = range(sum(name.startswith("hidden.") for name in tensors))
        return Importance(
            tensors["residual"],
            tuple(tensors[f"head_dims.{i}"] for i in blocks),
            tuple(tensors[f"hidden.{i}"] for i in blocks),
            float(about["seconds"]),
            float(about["passes"]),
            about["method"],
        )

    def save_tokens(self, tokens: Tensor) -> None:
        _save(self.folder / "trunk-tokens.safetensors", {"tokens": tokens}, {})

    def load_tokens(self) -> Tensor | None:
        """The trunk's class tokens; None where they were not computed."""
        path = self.folder / "trunk-tokens.safetensors"
        return _load(path)[0]["tokens"] if path.is_file() else None

    def remove(self) -> None:
        shutil.rmtree(self.folder)

    def _part(self, part: int) -> Path:
        return self.folder / f"part-{part}.safetensors"

    def _importance(self, part: int) -> Path:
        return self.folder / f"importance-{part}.safetensors"


def open_work(folder: Path, recipe: dict[str, Any], *, resume: bool, force: bool) -> Work:
    """The work folder for ``recipe``, made if need be.

    UsageError when an unfinished run is there and neither ``resume`` nor ``force`` is given, when there is nothing to
    resume, and when what is there is of another recipe; it names what differs.
    """
    note = folder / "recipe.json"
    if resume:
        _check_same(note, recipe)
        return Work(folder)
    if note.is_file():
        if not force:
            raise UsageError(
                f"an unfinished split is kept in {folder}", hint="add --resume to go on, or start over with --force"
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(note, json.dumps(recipe, indent=2, sort_keys=True) + "\n")
    return Work(folder)


def _check_same(note: Path, recipe: dict[str, Any]) -> None:
    if not note.is_file():
        raise UsageError(f"nothing to resume: no {note.parent}", hint="start without --resume")
    saved = read_json(note, "the recipe of a split", hint="start over with --force")
    if not isinstance(saved, dict):
        raise UsageError(f"{note} is not the recipe of a split", hint="start over with --force")
    wanted = json.loads(json.dumps(recipe))
    differing = sorted(name for name in {*saved, *wanted} if saved.get(name) != wanted.get(name))
    if differing:
        was = ", ".join(f"{name} {saved.get(name)}" for name in differing)
        raise UsageError(
            f"{note.parent} is of another split ({was})",
            hint="resume with the same options, data and weights, or start over with --force",
        )


def _save(path: Path, tensors: Mapping[str, Tensor], about: dict[str, str]) -> None:
    with replaced(path) as scratch:
        save_file({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}, scratch, about)


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as exc:
        raise UsageError(f"{path} cannot be read: {exc}", hint="start over with --force") from exc
