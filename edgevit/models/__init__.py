"""Models in train form and deploy form: the zoo, timm's models, and yours.

    create_model("fmvit_s")                        a zoo name
    create_model("timm:resnet18", pretrained=True)
    create_model("my_models.py:build")

Names are loaded when first used, so that ``edgevit.models.zoo`` can be read without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgevit.models.loading.source import create_model as create_model
    from edgevit.models.reparam import reparameterize as reparameterize
    from edgevit.models.zoo import list_models as list_models

_HOMES = {
    "create_model": "edgevit.models.loading.source",
    "list_models": "edgevit.models.zoo",
    "reparameterize": "edgevit.models.reparam",
}

__all__ = ["create_model", "list_models", "reparameterize"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'edgevit.models' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
