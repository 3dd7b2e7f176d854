"""A user's Python file runs as ``python file.py`` would run it, and leaves this process as it was."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import io
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from types import ModuleType

import torch

from edgevit.errors import EdgeVitError, UsageError
from edgevit.models.eager.faults import named, raised_on_purpose
from edgevit.models.loading.torchvision_ops import declare_torchvision_ops

_BESIDE: dict[str, Path] = {}  # modules that came from a folder of the user's, and which


@contextmanager
def visiting(path: Path, doing: str, heard: io.StringIO | None = None) -> Iterator[None]:
    """Run what ``path`` has inside: its folder can be imported from, the arguments are its own, and what it prints is
    no data of ours. Whatever it raises, even to end the program, is one sentence that begins with ``doing``.

    ``heard`` holds back what it says on standard error; that is said afterwards, unless it ended the program.
    """
    _forget_namesakes(path.parent)
    before = set(sys.modules)
    stderr = sys.stderr
    try:
        with _as_its_own_program(path), _process_kept(), redirect_stdout(stderr), redirect_stderr(heard or stderr):
            yield
    except SystemExit as exc:
        raise _ended(exc, path, doing, heard) from exc
    except EdgeVitError:
        raise
    except BaseException as exc:
        if isinstance(exc, KeyboardInterrupt) and not raised_on_purpose(exc):
            raise
        raise UsageError(f"{doing} raised {_described(exc, path)}", hint="EDGEVIT_DEBUG=1 shows where") from exc
    finally:
        _remember(path.parent, set(sys.modules) - before)
    if heard is not None:
        stderr.write(heard.getvalue())


@contextmanager
def _as_its_own_program(path: Path) -> Iterator[None]:
    arguments, folder, finder = sys.argv, str(path.parent), _BeforeTorchvision()
    sys.argv = [str(path)]
    sys.path.insert(0, folder)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.argv = arguments
        with suppress(ValueError):  # it took them out itself
            sys.path.remove(folder)
        with suppress(ValueError):
            sys.meta_path.remove(finder)


@contextmanager
def _process_kept() -> Iterator[None]:
    """The folder, torch's defaults and the warnings' filters are put back: they are of the process, not of a model."""
    here = _folder()
    dtype, device, grad = torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()
    try:
        with warnings.catch_warnings():
            yield
    finally:
        if here is not None and here != _folder():
            os.chdir(here)
        torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:
            torch.set_default_device(None if device.type == "cpu" else device)
        torch.set_grad_enabled(grad)


def _folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # somebody removed it
        return None


class _BeforeTorchvision(importlib.abc.MetaPathFinder):
    """Finds nothing. But before torchvision (and so timm) is imported, it can be beside a CPU-only torch."""

    def find_spec(
        self, name: str, path: object = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name == "torchvision" and self in sys.meta_path:
            sys.meta_path.remove(self)  # once: looking for torchvision asks the finders
            declare_torchvision_ops()
        return None


# --- other files beside it ---------------------------------------------------------------------------------------


def _forget_namesakes(folder: Path) -> None:
    """``import layers`` means the file beside this one, not the one beside a file that was loaded before."""
    for name, where in list(_BESIDE.items()):
        first = name.partition(".")[0]
        if where != folder and ((folder / f"{first}.py").exists() or (folder / first).is_dir()):
            sys.modules.pop(name, None)
            del _BESIDE[name]


def _remember(folder: Path, new: set[str]) -> None:
    """Those of the ``new`` modules that are a file or a package of the folder, and what is in that package."""
    for name in new:
        first = name.partition(".")[0]
        file = getattr(sys.modules.get(first), "__file__", None)
        if first in new and file and Path(file) in (folder / f"{first}.py", folder / first / "__init__.py"):
            _BESIDE[name] = folder


# --- words -------------------------------------------------------------------------------------------------------


def _ended(exc: SystemExit, path: Path, doing: str, heard: io.StringIO | None) -> UsageError:
    said = exc.code if isinstance(exc.code, str) else heard.getvalue() if heard else ""
    lines = said.strip().splitlines()
    words = f": {lines[-1].removeprefix(f'{path.name}: error: ')}" if lines else ""
    return UsageError(
        f"{doing} ended the program{words}",
        hint='put what reads arguments or exits under if __name__ == "__main__":',
    )


def _described(exc: BaseException, path: Path) -> str:
    """Its type and first line, and the line of the user's file (or of one beside it) where it was."""
    said = named(exc)
    if isinstance(exc, SyntaxError):  # names its file and line itself
        return said
    frames = [frame for frame in traceback.extract_tb(exc.__traceback__) if Path(frame.filename).parent == path.parent]
    return f"{said} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else said
