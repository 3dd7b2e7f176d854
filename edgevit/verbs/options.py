"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from edgevit import registry
from edgevit.quantize.asked import ASKED, QUANTIZER, quantizing_of
from edgevit.sizes import Sides, as_size
from edgevit.verbs.help import of_data, of_integers, of_model, of_output, of_running, of_target, taking


def model_names(begun: str) -> list[str]:
    """For the shell's completion: zoo names that begin so."""
    from edgevit.models import zoo

    return [name for name in zoo.names() if name.startswith(begun)]


def target_names(begun: str) -> list[str]:
    """The same for targets."""
    return [name for name in (*registry.rows("exporter"), "all") if name.startswith(begun)]


def runtime_names(begun: str) -> list[str]:
    """The same for runtimes."""
    return [name for name in registry.rows("runtime") if name.startswith(begun)]


ModelName = Annotated[
    str,
    typer.Argument(
        help="A zoo name (fmvit_s), timm:, torchvision: or hf:NAME, or path/to/file.py:factory.",
        show_default=False,
        autocompletion=model_names,
    ),
]
# Whether a path can be read is not asked of the parser, which would end the command for one of several images.
ArtifactOrBundle = Annotated[
    Path,
    typer.Argument(
        metavar="ARTIFACT|BUNDLE", help="An artifact's folder, or a bundle's.", show_default=False, readable=False
    ),
]
Json = Annotated[bool, of_output("--json", help="Machine-readable output on stdout.")]


def _threads(given: int | None) -> int | None:
    """Too many are refused, and more than there are cores for are said."""
    from edgevit import cpu, render

    if given is not None and (said := cpu.crowding(cpu.checked_threads(given))):
        render.say(said)
    return given


Threads = Annotated[
    int | None,
    of_running("--threads", min=1, callback=_threads, help="Threads to run the model with. Default: all usable cores."),
]
ThreadsThere = Annotated[  # where the run may be on another machine, which knows its cores
    int | None, of_running("--threads", min=1, help="Threads to run the model with. Default: all usable cores.")
]
RuntimeName = Annotated[
    str | None,
    of_running(
        "--runtime", help="Which runtime opens it. Default: the target's preferred one.", autocompletion=runtime_names
    ),
]
Runtimes = Annotated[
    list[str] | None,
    of_running(
        "--runtime",
        help="One for all, one for each, or 'all'. Default: each target's own.",
        autocompletion=runtime_names,
    ),
]
Provider = Annotated[
    str | None,
    of_running("--provider", help="The runtime's device back end, e.g. cpu, cuda. Never replaced silently."),
]
Trust = Annotated[
    bool,
    of_running("--trust", help="Open an engine or compiled library that no known key signed. It runs code."),
]
RuntimeOptions = Annotated[
    list[str] | None,
    of_running("--runtime-option", metavar="KEY=VALUE", help="Repeat for several; OpenVINO has precision=bf16."),
]
Weights = Annotated[
    str | None,
    of_model(
        "--weights",
        metavar="FILE[#KEY]",
        help="A file of safetensors or torch (KEY: which of its sets; averaged weights come first), or 'digits'.",
    ),
]
Classes = Annotated[
    int | None,
    of_model("--classes", min=0, help="Number of classes; 0: timm's model without its head. Default: the model's own."),
]
Task = Annotated[
    str | None,
    of_model("--task", help="What the outputs mean: classify, embed, segment, detect, restore, depth, tensors."),
]
ImageSize = Annotated[
    Sides | None,
    of_model(
        "--image-size",
        parser=as_size,
        metavar="N|HxW",
        help="Input size in pixels: 224, or height x width as 224x320. Default: the model's own.",
    ),
]
ImageSizes = Annotated[
    str | None,
    of_model(
        "--image-size",
        metavar="N|HxW|RANGE",
        help="Input size in pixels: 224, 224x320, or all of 128-512/32 (low-high/multiple). Default: the model's own.",
    ),
]
Pretrained = Annotated[bool, of_model("--pretrained", help="The library's own weights (timm:, torchvision:, hf:).")]
_STEPS: dict[str, tuple[Any, Any]] = {
    "mean": (
        Annotated[str | None, of_model("--mean", metavar="N|N,N,N", help="Taken from pixels. Default: the model's.")],
        None,
    ),
    "std": (
        Annotated[str | None, of_model("--std", metavar="N|N,N,N", help="Pixels are divided by it, then.")],
        None,
    ),
    "crop": (
        Annotated[
            str | None,
            of_model("--crop", help="center, squash, letterbox, pad, or the share cut out of the middle: 0.95."),
        ],
        None,
    ),
    "interpolation": (
        Annotated[str | None, of_model("--interpolation", help="nearest, bilinear, bicubic or lanczos.")],
        None,
    ),
    "range": (
        Annotated[
            str | None,
            of_model("--range", help="Of pixels before mean and std: 0-1, 0-255 or -1-1; alone: as they are."),
        ],
        None,
    ),
    "color": (Annotated[str | None, of_model("--color", help="RGB, BGR, GRAY or RGBA. Default: the model's.")], None),
    "pad_value": (
        Annotated[
            str | None,
            of_model("--pad-value", metavar="N|mean|reflect", help="Beside a letterbox or pad: 0 to 255, or a word."),
        ],
        None,
    ),
    "place": (
        Annotated[str | None, of_model("--place", help="Of a letterbox or pad: center or top-left.")],
        None,
    ),
}


def prepares(verb: Callable[..., None]) -> Callable[..., None]:
    """``verb`` with the options that say how pictures are prepared: it is called with their ``steps``."""

    def called(**given: Any) -> None:
        from edgevit.steps import Steps, numbers

        said = {name: given.pop(name) for name in _STEPS}
        for name in ("mean", "std"):
            said[name] = None if said[name] is None else numbers(said[name])
        verb(steps=Steps(**said), **given)

    return taking(verb, _STEPS, called, instead_of="steps")


Precision = Annotated[
    str | None, of_target("--precision", help="fp32, fp16, int8, w8 or w4. Default: the target's own.")
]
_QUANTIZING: dict[str, tuple[Any, Any]] = {
    "calibrate": (
        Annotated[
            str | None,
            of_integers("--calibrate", metavar="SRC", help="Images that ranges are found on. Default: --data."),
        ],
        None,
    ),
    "calibration_images": (
        Annotated[int, of_integers("--calibration-images", min=1, help="How many of them, at most.")],
        ASKED.images,
    ),
    "max_drop": (
        Annotated[
            float | None,
            of_integers("--max-drop", metavar="POINTS", help="What integers may cost; exit 10 where none are left."),
        ],
        None,
    ),
    "keep_float": (
        Annotated[
            list[str] | None,
            of_integers(
                "--keep-float", metavar="PATH", help="A module or weight to leave in float. Repeat for several."
            ),
        ],
        None,
    ),
    "observer": (
        Annotated[
            str, of_integers("--observer", help="How ranges follow from what is seen: minmax, percentile or mse.")
        ],
        ASKED.observer,
    ),
    "quantizer": (
        Annotated[
            str | None,
            of_integers(
                "--quantizer",
                metavar="NAME",
                help=f"How weights make up for it: {', '.join(registry.QUANTIZERS)}. Default: {QUANTIZER}.",
            ),
        ],
        None,
    ),
}


def quantizes(verb: Callable[..., None]) -> Callable[..., None]:
    """``verb`` with the options that say how integers are found: it is called with ``quantizing``, made of them."""

    def called(**given: Any) -> None:
        said = {name: given.pop(name) for name in _QUANTIZING}
        images, kept = said.pop("calibration_images"), said.pop("keep_float") or ()
        verb(quantizing=quantizing_of({**said, "images": images, "keep_float": kept}), **given)

    return taking(verb, _QUANTIZING, called, instead_of="quantizing")


Batch = Annotated[str, of_target("--batch", help="Rows per call: 1, or a range such as 1-8.")]
ExporterOptions = Annotated[
    list[str] | None,
    of_target(
        "--option", metavar="KEY=VALUE", help="Exporter option: TARGET.key=value; plain key=value with a single -t."
    ),
]
Timeout = Annotated[
    float | None, of_running("--timeout", min=1, help="Seconds that a target's native compiler may take.")
]
MaxSize = Annotated[
    str | None, of_target("--max-size", metavar="BYTES", help="Refuse model files above this, such as 8MB.")
]
Verify = Annotated[bool, of_data("--verify/--no-verify", help="Prove every artifact equal to its model.")]
Cache = Annotated[
    bool, of_running("--cache/--no-cache", help="Use and keep what does not change while model and data are the same.")
]
Force = Annotated[bool, of_output("--force", help="Replace what is at the output path.")]
Data = Annotated[
    str | None,
    of_data("--data", metavar="SRC", help="digits, folder:PATH, masks:PATH, coco:PATH, depth:PATH, idx:PATH, …"),
]
