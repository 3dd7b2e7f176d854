"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgevit.sizes import Sides, as_size

ModelName = Annotated[
    str, typer.Argument(help="A zoo name (fmvit_s), timm:NAME, or path/to/file.py:factory.", show_default=False)
]
ArtifactOrBundle = Annotated[
    Path, typer.Argument(metavar="ARTIFACT|BUNDLE", help="An artifact's folder, or a bundle's.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]


def _threads(given: int | None) -> int | None:
    """Too many are refused, and more than there are cores for are said."""
    from edgevit import cpu, render

    if given is not None and (said := cpu.crowding(cpu.checked_threads(given))):
        render.say(said)
    return given


Threads = Annotated[
    int | None,
    typer.Option(
        "--threads", min=1, callback=_threads, help="Threads to run the model with. Default: all usable cores."
    ),
]
ThreadsThere = Annotated[  # where the run may be on another machine, which knows its cores
    int | None, typer.Option("--threads", min=1, help="Threads to run the model with. Default: all usable cores.")
]
RuntimeName = Annotated[
    str | None, typer.Option("--runtime", help="Which runtime opens it. Default: the target's preferred one.")
]
Runtimes = Annotated[
    list[str] | None,
    typer.Option("--runtime", help="Repeat for several. Default: the target's preferred one."),
]
Provider = Annotated[
    str | None,
    typer.Option("--provider", help="The runtime's device back end, e.g. cpu, cuda. Never replaced silently."),
]
Trust = Annotated[
    bool,
    typer.Option("--trust", help="Open an engine or compiled library that no known key signed. It runs code."),
]
RuntimeOptions = Annotated[
    list[str] | None,
    typer.Option("--runtime-option", metavar="KEY=VALUE", help="Repeat for several; OpenVINO has precision=bf16."),
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="FILE[#KEY]",
        help="A file of safetensors or torch (KEY: which of its sets; averaged weights come first), or 'digits'.",
    ),
]
Classes = Annotated[int | None, typer.Option("--classes", min=1, help="Number of classes. Default: the model's own.")]
ImageSize = Annotated[
    Sides | None,
    typer.Option(
        "--image-size",
        parser=as_size,
        metavar="N|HxW",
        help="Input size in pixels: 224, or height x width as 224x320. Default: the model's own.",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace what is at the output path.")]
Data = Annotated[
    str | None,
    typer.Option("--data", metavar="SRC", help="digits, samples, folder:PATH, npz:PATH, cifar10:PATH, cifar100:PATH."),
]
