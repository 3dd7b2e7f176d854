"""Model, artifact, difference: what both answer to a golden picture, run while the page is written."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgevit import worker
from edgevit.artifact.manifest import Array
from edgevit.artifact.opened import Artifact
from edgevit.errors import EdgeVitError
from edgevit.images import encoded
from edgevit.profiles.report.collect import Row
from edgevit.profiles.report.markup import Markup, join, tag
from edgevit.proof.answers import Beside, farthest, golden_answers, golden_outputs
from edgevit.runtimes.base import open_session

SIDE = 240  # pixels of a picture's longer side, at most: a report of many artifacts is still one mail
TINY = 96  # below which every pixel is shown as a square
TIMEOUT_S = 120.0
NOTE = (
    "Of the golden pictures that an artifact was proved on, the one where it differs most from its model in float64. "
    "It was run for this page, on the machine that wrote it. What differs is bright: the largest difference as bright "
    "as can be, however small it is."
)


def section(rows: Sequence[Row]) -> Markup | None:
    """A card for each sound artifact that takes pictures; None where there is none."""
    sound = {row.path: row for row in rows if row.manifest is not None and row.size is not None}
    cards = [card for row in sound.values() if (card := _card(row)) is not None]
    return join(tag("p", NOTE, class_="note"), tag("div", *cards, class_="grid")) if cards else None


def _card(row: Row) -> Markup | None:
    try:
        artifact = Artifact.open(row.path)
        found = golden_answers(artifact)
        if not found:
            return None
        outputs, why = _outputs(artifact)
        shown = farthest(golden_answers(artifact, outputs) if outputs else found) or found[0]
    except EdgeVitError as error:
        return tag("article", tag("h3", row.name), tag("p", f"cannot be shown: {error}"), class_="card")
    which = f"{artifact.manifest.model.task}, golden picture {shown.row + 1} of {len(found)}"
    missing = tag("p", f"The artifact could not be run here: {why}.", class_="evidence") if why else None
    head = tag("h3", row.name, tag("span", which, class_="small"))
    return tag("article", head, missing, tag("div", *_columns(shown), class_="beside"), class_="card")


def _outputs(artifact: Artifact) -> tuple[dict[str, Array] | None, str | None]:
    """The artifact's own on its golden rows, or why it did not run."""
    with tempfile.TemporaryDirectory(prefix="edgevit-report-") as folder:
        out = Path(folder) / "outputs.npz"
        try:
            worker.call(
                "edgevit.profiles.report.beside:run", {"artifact": str(artifact.path), "out": str(out)},
                timeout=TIMEOUT_S,
            )  # fmt: skip
        except EdgeVitError as error:
            return None, str(error).rstrip(".")
        with np.load(out) as kept:
            return {spec.name: kept[f"arr_{place}"] for place, spec in enumerate(artifact.manifest.outputs)}, None


def run(payload: dict[str, Any]) -> dict[str, Any]:
    """Worker target: the outputs of ``payload["artifact"]`` on its golden rows, in the manifest's order, to
    ``payload["out"]``."""
    artifact = Artifact.open(payload["artifact"])
    with open_session(artifact) as session:
        outputs = golden_outputs(session)
    np.savez(payload["out"], *(outputs[spec.name] for spec in artifact.manifest.outputs))
    return {}


def _columns(shown: Beside) -> list[Markup]:
    image, apart = shown.image, shown.apart
    columns = [_column("model", shown.model.words(), shown.model.drawn(image))]
    if shown.artifact is not None and apart is not None:
        columns.append(_column("artifact", shown.artifact.words(), shown.artifact.drawn(image)))
        columns.append(_column("difference", apart.words, apart.picture, largest=True))
    return columns


def _column(what: str, words: str, picture: Array | None, *, largest: bool = False) -> Markup:
    drawn = None if picture is None else _picture(_smaller(picture, largest), f"{what}: {words}")
    return tag("figure", drawn, tag("figcaption", tag("strong", what), f": {words}"))


def _picture(pixels: Array, said: str) -> Markup:
    data = base64.b64encode(encoded(pixels)).decode()
    height, width = pixels.shape[:2]
    tiny = "tiny" if max(height, width) < TINY else None
    return tag("img", src=f"data:image/png;base64,{data}", alt=said, width=width, height=height, class_=tiny)


def _smaller(picture: Array, largest: bool) -> Array:
    """A whole number of pixels as one: their mean, or the ``largest``, so that no single one that differs is lost."""
    step = -(-max(picture.shape[:2]) // SIDE)
    if step == 1:
        return picture
    height, width = (max(1, side // step) for side in picture.shape[:2])
    cut = picture[: height * step, : width * step].astype(np.float32)
    blocks = cut.reshape(height, min(step, len(cut)), width, -1, 3)
    found: Array = np.round(blocks.max((1, 3)) if largest else blocks.mean((1, 3))).astype(np.uint8)
    return found
