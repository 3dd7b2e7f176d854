"""``edgevit.toml``: defaults of options for repeated runs, a table a verb.

    [export]
    target = ["onnx", "tensorrt"]
    precision = "fp16"

    [fleet.status]              # a verb of a group
    …

It is looked for in the working folder and, inside a repository, up to its root. Whoever unpacks a stranger's folder
and works in it has the stranger's file, so options that run code, replace files or say with which machines to talk are
refused in it. What it gives is click's default map: the command line and the environment win.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from edgevit import render
from edgevit.errors import UnknownName, UsageError
from edgevit.foreign import parse_toml, read_text

FILE = "edgevit.toml"
EXAMPLE = 'for example [export] and below it precision = "fp16"'

_RUNS = "it decides whose code runs here"
_TALKS = "it decides with which machines this one talks"
_HERE = "it belongs to one run"
REFUSED: Mapping[str, str] = {
    "trust": _RUNS, "against": _RUNS,
    "force": "it would replace what is there", "verify": "it would leave out the proof",
    **dict.fromkeys(("connect", "listen", "identity", "insecure", "cluster", "router_only", "wan", "where", "on",
                     "host", "port", "allow_host", "private", "metrics"), _TALKS),
    **dict.fromkeys(("quiet", "verbose", "json", "dry_run", "resume"), _HERE),
}  # fmt: skip
REFUSED_VERBS: Mapping[str, str] = {
    **dict.fromkeys(("keys", "enroll", "revoke", "ca"), "it decides who is trusted"),
    **dict.fromkeys(("node", "router", "serve", "up"), "it decides what this machine offers to others"),
}


@dataclass
class _Read:
    """What was read for the verb that runs, in a sentence."""

    sentence: str = ""


_READ = _Read()


@dataclass(frozen=True)
class Settings:
    """One file: where it is, its text (to find lines in), and its tables."""

    path: Path
    text: str = ""
    tables: Mapping[str, Any] = field(default_factory=dict)

    def defaults(self, app: Any) -> dict[str, Any]:
        """The default map of ``app``. UnknownName and UsageError, each with file and line, for what cannot be meant."""
        return dict(self._group(app, self.tables, ()))

    def _group(self, group: Any, tables: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        for name, table in tables.items():
            here = (*path, name)
            if name not in group.commands:
                raise self._unknown("verb", name, set(group.commands) - set(REFUSED_VERBS), path, table)
            if why := REFUSED_VERBS.get(name):
                raise self._refused(f"[{'.'.join(here)}]", why, here, "")
            if not isinstance(table, dict):
                raise UsageError(f"{self._at(path, name)}: {name} is a verb and takes a table", hint=EXAMPLE)
            inner = group.commands[name]
            read = self._group if hasattr(inner, "commands") else self._verb
            yield name, dict(read(inner, table, here))

    def _unknown(self, kind: str, name: str, known: Any, path: tuple[str, ...], value: Any) -> UsageError:
        hint = None
        if kind == "verb" and not isinstance(value, dict):
            hint = f"options stand below a verb: {EXAMPLE}"
        found = UnknownName(f"{kind} at {self._at(path, name)}:", name, known)
        return UsageError(str(found), hint=hint or found.hint)

    def _verb(self, verb: Any, table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        options = {one.name: one for one in verb.params if one.param_type_name == "option"}
        for key, value in table.items():
            name, shown = key.replace("-", "_"), f"{' '.join(path)} {key}"
            if why := REFUSED.get(name):
                raise self._refused(shown, why, path, key)
            if name not in options:
                known = [one.replace("_", "-") for one in options if one not in REFUSED]
                raise self._unknown(f"option of {' '.join(path)}", key, known, path, value)
            yield name, self._value(options[name], value, shown, self._at(path, key))

    def _value(self, option: Any, value: Any, shown: str, at: str) -> Any:
        """``value`` as the command line would have it, checked by the option's own type."""
        wanted = _kind(option)
        given = value if isinstance(value, list) else [value]
        many = option.multiple
        if (isinstance(value, list) and not many) or not all(_fits(option, one) for one in given):
            several = ", or a list of them" if many else ""
            raise UsageError(f"{at}: {shown} is {wanted}{several}, not {value!r}", hint="see the verb's --help")
        if option.name == "out" and (Path(str(value)).is_absolute() or ".." in Path(str(value)).parts):
            raise UsageError(f"{at}: {shown} leads out of the working folder", hint="give -o on the command line")
        low, high = (getattr(option, side, None) for side in ("min", "max"))
        if any(not (low or one) <= one <= (high or one) for one in given if wanted in _NUMBERS.values()):
            limits = f"at least {low}" if high is None else f"{low} to {high}"
            raise UsageError(f"{at}: {shown} is {limits}, not {value!r}", hint="see the verb's --help")
        texts = [one if isinstance(one, bool) else str(one) for one in given]
        return texts if many else texts[0]

    def _refused(self, shown: str, why: str, path: tuple[str, ...], key: str) -> UsageError:
        return UsageError(
            f"{self._at(path, key)}: {shown} is not taken from a file: {why}", hint="give it on the command line"
        )

    def _at(self, path: tuple[str, ...], key: str) -> str:
        """FILE:LINE of a key in a table; TOML's readers tell no lines, so it is looked for."""
        table, found = "", 1
        for number, line in enumerate(self.text.splitlines(), 1):
            if header := re.match(r"\s*\[+\s*([^\]]+?)\s*\]", line):
                table = header[1].replace('"', "").replace(" ", "")
                if table == ".".join((*path, key)).strip("."):
                    return f"{self.path}:{number}"
            elif table == ".".join(path) and re.match(rf"\s*[\"']?{re.escape(key)}\b", line):
                return f"{self.path}:{number}"
            if key and key in line and found == 1:
                found = number
        return f"{self.path}:{found}"


_NUMBERS: Mapping[str, str] = {"int": "a whole number", "integer": "a whole number", "float": "a number"}


def _kind(option: Any) -> str:
    """What an option takes, in words."""
    if option.is_flag:
        return "true or false"
    if not hasattr(option, "type_descriptor"):  # of a Typer that stood on click
        return _NUMBERS.get(option.type.name.partition(" ")[0], "a text")
    kind = option.type_descriptor.annotation
    return _NUMBERS.get(next(iter(get_args(kind)), kind).__name__, "a text")  # of int, list[int]


def _fits(option: Any, value: Any) -> bool:
    """A number is a text as well, as on the command line: batch = 1."""
    wanted = _kind(option)
    if wanted == "true or false" or isinstance(value, bool):
        return wanted == "true or false" and isinstance(value, bool)
    if wanted == "a whole number":
        return isinstance(value, int)
    return isinstance(value, int | float) or (wanted == "a text" and isinstance(value, str))


def read(given: Path | None) -> Settings | None:
    """The file that was asked for, else the one that is found; None without one. UsageError for a broken one."""
    path = found() if given is None else given
    if path is None:
        return None
    text = read_text(path, "a file of settings", error=UsageError, hint="give --config another, or --no-config")
    try:
        return Settings(path, text, parse_toml(text))
    except ValueError as exc:
        at = re.search(r"\(at line (\d+)", str(exc))
        where = f"{path}:{at[1]}" if at else str(path)
        raise UsageError(f"{where}: not TOML: {exc}", hint=EXAMPLE) from exc


def found() -> Path | None:
    """``edgevit.toml`` of the working folder, or of the nearest folder above it up to the root of its repository. One
    that another user wrote is not read, which is said."""
    try:
        here = Path.cwd()
    except OSError:  # somebody removed it
        return None
    root = next((folder for folder in (here, *here.parents) if (folder / ".git").exists()), here)
    for folder in (here, *here.parents):
        path = folder / FILE
        if path.is_file():
            return path if _ours(path) else None
        if folder == root:
            return None
    return None


def _ours(path: Path) -> bool:
    if not hasattr(os, "getuid") or path.stat().st_uid in (os.getuid(), 0):
        return True
    render.say(f"{path} is another user's and is not read; --config {path} reads it")
    return False


def load(context: Any, given: Path | None) -> None:
    """Make the file's values the defaults of the verb that ``context`` is about to call."""
    settings = read(given)
    _READ.sentence = ""
    if settings is None:
        return
    context.default_map = settings.defaults(context.command)
    verbs = ", ".join(settings.tables) or "nothing"
    _READ.sentence = f"defaults from {settings.path} ({verbs})"


def said(aloud: bool) -> None:
    """Say which file was read: ``aloud`` always, else with ``--verbose``."""
    if _READ.sentence:
        (render.say if aloud else render.detail)(_READ.sentence)
