"""How help pages are laid out: options under headings, where there are many; and what every verb takes.

Typer groups options only on pages that rich draws, which would cost 100 ms at every start.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand

from edgevit import render
from edgevit.verbs import settings

Function = TypeVar("Function", bound=Callable[..., None])
FLAT = 8  # options that a page lists without headings
ARGUMENTS, REST, EVERYWHERE = "Arguments", "Options", "Everywhere"

of_model = partial(typer.Option, rich_help_panel="Model")
of_target = partial(typer.Option, rich_help_panel="Target")
of_data = partial(typer.Option, rich_help_panel="Data and proof")
of_integers = partial(typer.Option, rich_help_panel="Integers")
of_splitting = partial(typer.Option, rich_help_panel="Splitting")
of_training = partial(typer.Option, rich_help_panel="Training")
of_measuring = partial(typer.Option, rich_help_panel="Measuring")
of_fleet = partial(typer.Option, rich_help_panel="Fleet")
of_running = partial(typer.Option, rich_help_panel="Running")
of_output = partial(typer.Option, rich_help_panel="Output")
_ORDER = (
    ARGUMENTS, "Model", "Target", "Integers", "Data and proof", "Splitting", "Training", "Measuring", "Fleet",
    "Running", "Output", REST, EVERYWHERE,
)  # fmt: skip


class Verbs(typer.Typer):
    """An app whose verbs have such pages, and take ``--quiet`` and ``--verbose``."""

    def command(self, name: str | None = None, **more: Any) -> Callable[[Function], Function]:
        register = super().command(name, **{"cls": Page, **more})

        def registered(verb: Function) -> Function:
            register(_heard(verb))
            return verb

        return registered


class Page(TyperCommand):
    """A verb's page."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        for title, rows in sections(self.get_params(ctx), ctx):
            with formatter.section(title):
                formatter.write_dl(rows)


def sections(params: list[Any], ctx: Any) -> list[tuple[str, list[tuple[str, str]]]]:
    """(heading, rows) of a page; a short list of options has one heading."""
    rows = [(_heading(one), row) for one in params if (row := one.get_help_record(ctx)) is not None]
    if sum(title not in (ARGUMENTS, EVERYWHERE) for title, _ in rows) <= FLAT:
        rows = [(title if title == ARGUMENTS else REST, row) for title, row in rows]
    found = [(title, [row for of, row in rows if of == title]) for title in _ORDER]
    return [(title, listed) for title, listed in found if listed]


def _heading(one: Any) -> str:
    if one.param_type_name == "argument":
        return ARGUMENTS
    if one.name in ("help", *render.LOUDNESS):
        return EVERYWHERE
    return getattr(one, "rich_help_panel", None) or REST


def _heard(verb: Callable[..., None]) -> Callable[..., None]:
    """``verb`` with ``--quiet`` and ``--verbose``."""

    def called(**given: Any) -> None:
        for level in render.LOUDNESS:
            if given.pop(level):
                render.speak(level)
        settings.said(aloud=bool(given.get("dry_run")))
        verb(**given)

    return taking(verb, _LOUDNESS, called)


_LOUDNESS = {
    level: (Annotated[bool, typer.Option(f"--{level}", f"-{level[0]}", help=what)], False)
    for level, what in render.LOUDNESS.items()
}


def taking(
    verb: Callable[..., None],
    options: Mapping[str, tuple[Any, Any]],
    called: Callable[..., None],
    instead_of: str | None = None,
) -> Callable[..., None]:
    """``called`` with the parameters of ``verb``, and ``options`` (name -> type, default) before its ``--json``;
    ``instead_of`` is the parameter that it makes of them."""
    signature = inspect.signature(verb, eval_str=True)
    own = [one for name, one in signature.parameters.items() if name not in (instead_of, "json")]
    added = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=kind)
        for name, (kind, default) in options.items()
    ]
    last = [one for name, one in signature.parameters.items() if name == "json"]
    parameters = [*own, *added, *last]
    functools.update_wrapper(called, verb)
    vars(called)["__signature__"] = signature.replace(parameters=parameters)
    called.__annotations__ = {one.name: one.annotation for one in parameters}
    return called
