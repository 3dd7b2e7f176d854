"""From a model to a target's files. Needs torch; never imports ``edgevit.runtimes``.

The package is callable: ``edgevit.export(model, "onnx", out=…)`` is ``edgevit.build.export``. A module attribute of
that name would be overwritten by this package the first time anything under it is imported.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from edgevit.build import export

        return export(*args, **kwargs)


sys.modules[__name__].__class__ = _CallablePackage
