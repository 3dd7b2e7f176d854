"""What is wrong with a model itself, in words: nothing can be proved equal to answers that are no numbers, or move; and
whoever runs a user's code goes on living, whatever that raises."""

from __future__ import annotations

import dis
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from edgevit.errors import ParityFailed, Unsupported, UsageError, first_line

SHOWN = 3


def no_numbers(module: nn.Module, where: str) -> ParityFailed:
    """The error for a model that answers NaN or infinity; ``where`` says to what."""
    for wrong, names in unsound_weights(module).items():
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        return ParityFailed(
            f"the weights hold {wrong}: {', '.join(names[:SHOWN])}{more}",
            hint="load other weights: these were broken before they came here",
        )
    return ParityFailed(
        f"the model itself answers NaN or infinity: {where}",
        hint="return a large number in its place (-1e4, say): equality with what is no number cannot be proved",
    )


def unsound_weights(module: nn.Module) -> dict[str, list[str]]:
    """Names of tensors that hold NaN, and of parameters that hold infinity: a buffer may, as a mask."""
    parameters = dict(module.named_parameters())
    found = {
        "NaN": [
            name for name, value in {**parameters, **dict(module.named_buffers())}.items() if _any(torch.isnan, value)
        ],
        "infinity": [name for name, value in parameters.items() if _any(torch.isinf, value)],
    }
    return {wrong: names for wrong, names in found.items() if names}


def moving(random: bool) -> Unsupported:
    """The error for a model whose answers change from call to call, by chance or because its state moves."""
    if random:
        return Unsupported(
            "the model's answers change from call to call: its forward draws random numbers, in eval mode too",
            hint="make dropout and noise depend on self.training",
        )
    return Unsupported(
        "the model's answers change from call to call: its forward changes what it computes with (a buffer, a counter)",
        hint="let forward change state only where self.training is true",
    )


@contextmanager
def contained() -> Iterator[None]:
    """What a user's code raises to end more than itself (SystemExit, a BaseException of its own) is a RuntimeError in
    words here, as any other fault of it. Ctrl-C stays what it is."""
    try:
        yield
    except SystemExit as exc:
        raise RuntimeError(f"forward ends the process (exit {exc.code})") from exc
    except Exception:
        raise
    except BaseException as exc:
        if isinstance(exc, KeyboardInterrupt) and not raised_on_purpose(exc):
            raise
        raise RuntimeError(f"forward raises {named(exc)}") from exc


def named(exc: BaseException) -> str:
    """The type of an exception, and its first line where it has one."""
    return f"{type(exc).__name__}: {first_line(exc)}" if str(exc).strip() else type(exc).__name__


def raised_on_purpose(exc: KeyboardInterrupt) -> bool:
    """Whether a line of code raised it: a signal arrives between two instructions, and never in a ``raise``."""
    trace = exc.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and dis.opname[trace.tb_frame.f_code.co_code[trace.tb_lasti]] == "RAISE_VARARGS"


def require_tree(module: nn.Module, within: tuple[nn.Module, ...] = ()) -> None:
    """UsageError for a module that lies inside itself: its weights have names without end."""
    for name, child in module._modules.items():
        if child is module or child in within:
            raise UsageError(
                f"the model holds itself: {name} of {type(module).__name__} is a module that this one lies in",
                hint="keep a reference to a parent out of the module: in a tuple, or behind a function",
            )
        if child is not None:
            require_tree(child, (*within, module))


def _any(found: Callable[[Tensor], Tensor], value: Tensor) -> bool:
    return value.is_floating_point() and bool(found(value.detach()).any())
