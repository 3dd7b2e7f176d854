"""coremltools, imported without what it says about this machine (no Core ML on Linux, an untested torch)."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

_LOGGER = logging.getLogger("coremltools")
_LOGGER.setLevel(logging.ERROR)

import coremltools as ct  # noqa: E402
from coremltools.converters import mil  # noqa: E402
from coremltools.converters.mil.frontend.torch import ops as frontend  # noqa: E402
from coremltools.converters.mil.frontend.torch import torch_op_registry  # noqa: E402
from coremltools.converters.mil.frontend.torch.converter import TranscriptionContext  # noqa: E402
from coremltools.converters.mil.frontend.torch.utils import sanitize_op_kind  # noqa: E402
from coremltools.converters.mil.mil import types  # noqa: E402
from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry  # noqa: E402
from coremltools.converters.mil.mil.passes import pass_pipeline as passes  # noqa: E402
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass  # noqa: E402
from coremltools.converters.mil.mil.passes.helper import block_context_manager  # noqa: E402
from coremltools.converters.mil.mil.passes.pass_registry import register_pass  # noqa: E402
from coremltools.converters.mil.mil.scope import ScopeSource  # noqa: E402

mb = mil.Builder
register_torch_op = torch_op_registry.register_torch_op
translations = torch_op_registry._TORCH_OPS_REGISTRY

__all__ = [
    "AbstractGraphPass",
    "SSAOpRegistry",
    "ScopeSource",
    "TranscriptionContext",
    "block_context_manager",
    "ct",
    "frontend",
    "mb",
    "passes",
    "register_pass",
    "register_torch_op",
    "sanitize_op_kind",
    "silence",
    "translations",
    "types",
]


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Neither log lines nor warnings: errors are raised, and what they say is said by us."""
    before = _LOGGER.level
    _LOGGER.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        _LOGGER.setLevel(before)
