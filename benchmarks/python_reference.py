"""docs/reference/python.md, from the signatures and docstrings of what is public.

    make reference

``tests/test_docs.py`` holds the committed page to what this writes, and runs its examples.
"""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from typing import Any

import edgevit

RESULTS = (
    "edgevit.prediction.predictor.Predictor",
    "edgevit.prediction.results.Prediction",
    "edgevit.prediction.results.BundlePrediction",
    "edgevit.prediction.results.Failure",
    "edgevit.tasks.base.Answer",
    "edgevit.tasks.classify.Classes",
    "edgevit.tasks.classify.Guess",
    "edgevit.tasks.segment.ClassMap",
    "edgevit.tasks.detect.Finds",
    "edgevit.tasks.detect.Find",
    "edgevit.tasks.restore.Restored",
    "edgevit.tasks.depth.Distances",
    "edgevit.tasks.embed.Embedding",
    "edgevit.tasks.tensors.Numbers",
    "edgevit.prediction.videos.Sampling",
    "edgevit.proof.verify.Verification",
    "edgevit.profiles.measured.Profile",
    "edgevit.runtimes.base.Session",
)
PLUG_INS = (
    "edgevit.registry.Row",
    "edgevit.export.base.Exporter",
    "edgevit.export.base.Options",
    "edgevit.export.base.Context",
    "edgevit.export.base.Built",
    "edgevit.runtimes.base.Runtime",
    "edgevit.runtimes.base.LayerTime",
)
_INTRODUCTION = """# Python

Written by `make reference` from the package's own docstrings. `import edgevit` loads nothing heavy, and never torch:
names are loaded when they are first used. Errors are those of `edgevit.errors`, each with a sentence and, in `hint`, a
next step.
"""


def page() -> str:
    """All of it."""
    names = sorted(edgevit.__all__, key=str.lower)
    parts = [_INTRODUCTION, paragraphs(inspect.getdoc(edgevit) or ""), "\n## Functions and classes\n"]
    parts += [section(f"edgevit.{name}", _public(name)) for name in names]
    parts.append("\n## What they return, and take\n")
    parts += [section(path, found(path)) for path in RESULTS]
    parts.append(
        "\n## For plug-ins\n\n[CONTRIBUTING](../../CONTRIBUTING.md) shows how a target is added from outside.\n"
    )
    parts += [section(path, found(path)) for path in PLUG_INS]
    return "\n".join(part.rstrip() + "\n" for part in parts)


def _public(name: str) -> Any:
    """``edgevit.export`` is a package that is called as the function ``build.export``."""
    return found("edgevit.build.export") if name == "export" else getattr(edgevit, name)


def found(path: str) -> Any:
    """What is called so."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def section(path: str, thing: Any) -> str:
    """A heading, the signature, and the docstring; of a class also its public methods."""
    parts = [f"### `{path}`\n", code(thing, path.rpartition(".")[2]), paragraphs(own_doc(thing))]
    for name, method in sorted(vars(thing).items()) if inspect.isclass(thing) else ():
        plain = method.__func__ if isinstance(method, classmethod | staticmethod) else method
        if name.startswith("_") or not inspect.isfunction(plain) or not plain.__doc__:
            continue
        parts += [f"#### `{path.rpartition('.')[2]}.{name}`\n", code(plain, name), paragraphs(own_doc(plain))]
    return "\n".join(parts)


def own_doc(thing: Any) -> str:
    """Its docstring; nothing for one that Python made up."""
    # a class without a docstring would have its base's
    mine = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
    said = inspect.cleandoc(mine or "")
    return "" if said.startswith(f"{getattr(thing, '__name__', '')}(") else said


def code(thing: Any, name: str) -> str:
    """The signature as Python, a parameter a line where it is long."""
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return ""
    if getattr(thing, "_is_protocol", False):
        return f"```python\nclass {name}(Protocol)\n```\n"
    shown, star = [], False
    for one in signature.parameters.values():
        if one.name == "self":
            continue
        if one.kind is one.KEYWORD_ONLY and not star:
            shown.append("*")
        star |= one.kind in (one.KEYWORD_ONLY, one.VAR_POSITIONAL)
        shown.append(parameter(one))
    returned = signature.return_annotation
    arrow = "" if inspect.isclass(thing) or returned is signature.empty else f" -> {annotation(returned)}"
    line = f"{name}({', '.join(shown)}){arrow}"
    if len(line) > 100:
        line = f"{name}(\n" + "".join(f"    {one},\n" for one in shown) + f"){arrow}"
    return f"```python\n{line}\n```\n"


def parameter(one: inspect.Parameter) -> str:
    stars = {one.VAR_POSITIONAL: "*", one.VAR_KEYWORD: "**"}.get(one.kind, "")
    kind = "" if one.annotation is one.empty else f": {annotation(one.annotation)}"
    if one.default is one.empty:
        return f"{stars}{one.name}{kind}"
    default = getattr(one.default, "__name__", None) or repr(one.default)
    default = "…" if " at 0x" in default or default.startswith("<") else default
    return f"{stars}{one.name}{kind}{' = ' if kind else '='}{default}"


def annotation(given: Any) -> str:
    """As it is written in the source."""
    return given if isinstance(given, str) else inspect.formatannotation(given)


def paragraphs(doc: str) -> str:
    """A docstring as Markdown: tables of names become lists, indented examples code."""
    parts = []
    for block in re.split(r"\n\s*\n", doc.strip()):
        lines = block.splitlines()
        if lines[0].startswith("    "):
            parts.append("```python\n" + inspect.cleandoc("\n" + block) + "\n```")
        elif re.match(r"\S+(?: ?, ?\S+)*  +\S", lines[0]):
            parts.append(_listed(lines))
        else:
            parts.append(block)
    return re.sub(r"(?<!`)``(?!`)([^`]+)``(?!`)", r"`\1`", "\n\n".join(parts)) + "\n"


def _listed(lines: list[str]) -> str:
    rows: list[list[str]] = []
    for line in lines:
        if line.startswith(" ") and rows:
            rows[-1][1] += f" {line.strip()}"
            continue
        name, _, said = line.partition("  ")
        rows.append([name, said.strip()])
    return "\n".join(f"- `{name}`: {said}" for name, said in rows)


if __name__ == "__main__":
    print(page(), end="")
