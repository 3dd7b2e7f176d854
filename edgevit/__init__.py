"""edgevit: vision transformers from PyTorch to the devices that run them.

    model = edgevit.create_model("fmvit_nano", weights="digits")
    artifact = edgevit.export(model, "onnx", out="artifacts/digits")
    with edgevit.open_session(artifact.path) as session:
        logits = session.infer({"image": pixels})["logits"]

Names are loaded when first used: ``import edgevit`` itself imports nothing heavy, and never torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgevit.artifact.opened import Artifact as Artifact
    from edgevit.build import export as export
    from edgevit.models import create_model as create_model
    from edgevit.models import list_models as list_models
    from edgevit.models import reparameterize as reparameterize
    from edgevit.prediction.predictor import open_predictor as open_predictor
    from edgevit.prediction.predictor import predict as predict
    from edgevit.profiles.latency import profile as profile
    from edgevit.proof.verify import verify as verify
    from edgevit.runtimes.base import open_session as open_session

_HOMES = {
    "Artifact": "edgevit.artifact.opened",
    "create_model": "edgevit.models",
    "list_models": "edgevit.models",
    "open_predictor": "edgevit.prediction.predictor",
    "open_session": "edgevit.runtimes.base",
    "predict": "edgevit.prediction.predictor",
    "profile": "edgevit.profiles.latency",
    "reparameterize": "edgevit.models",
    "verify": "edgevit.proof.verify",
}

__all__ = [
    "Artifact", "create_model", "export", "list_models", "open_predictor", "open_session", "predict", "profile",
    "reparameterize", "verify",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "export":  # the package of exporters, which is callable: see edgevit/export/__init__.py
        return import_module("edgevit.export")
    if name == "__version__":
        from importlib.metadata import version  # slow to import, rarely asked for

        return version("edgevit")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'edgevit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
