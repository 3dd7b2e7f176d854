"""What every mode that watches a model's calls is made of: it sees those inside control flow, too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch._ops import HigherOrderOperator
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_map
from typing_extensions import Self


class Watching(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While open, ``called`` answers every call of an operator."""

    supports_higher_order_operators = True

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()  # type: ignore[no-untyped-call]

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._stances: list[Any] = []

    def __enter__(self) -> Self:
        # PyTorch compiles control flow even where it only runs it. Not while somebody watches: then it leaves that for
        # the rest of the process half undone, and fails where nobody does.
        self._stances.append(torch.compiler.set_stance("force_eager"))
        self._stances[-1].__enter__()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._stances.pop().__exit__(*error)

    def called(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        raise NotImplementedError

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if isinstance(func, HigherOrderOperator):
            return self._controlled(func, args, kwargs or {})
        return self.called(func, args, kwargs or {})

    def _controlled(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Control flow as PyTorch runs it where nobody watches; in its branches and bodies all who do, do again."""
        with _disable_current_modes() as others:

            def watched(value: Any) -> Any:
                return _under((*reversed(others), self), value) if callable(value) else value

            return func(*tree_map(watched, args), **tree_map(watched, kwargs))


def _under(modes: Sequence[Any], body: Callable[..., Any]) -> Callable[..., Any]:
    def run(*arguments: Any) -> Any:
        with ExitStack() as stack:
            for mode in modes:
                stack.enter_context(mode)
            return body(*arguments)

    return run
