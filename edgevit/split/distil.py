"""What sub-models and the fusion head learn from the trunk's answers (Hinton et al., arXiv 1503.02531)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

TEMPERATURE = 2.0
TEACHER_SHARE = 0.5  # of the loss; the true labels have the rest


def softened(logits: Tensor) -> Tensor:
    """The trunk's probabilities at ``TEMPERATURE``, which also tell what an image resembles."""
    return F.softmax(logits / TEMPERATURE, dim=1)


def taught(logits: Tensor, targets: Tensor, wanted: Tensor, smoothing: float) -> Tensor:
    """Half cross entropy with the true labels, half KL from the trunk's ``wanted`` (``softened``), times TEMPERATURE².

    ``targets`` are labels (B,) or probabilities (B, V).
    """
    hard = F.cross_entropy(logits, targets, label_smoothing=smoothing)
    soft = F.kl_div(F.log_softmax(logits / TEMPERATURE, dim=1), wanted, reduction="batchmean")
    return (1 - TEACHER_SHARE) * hard + TEACHER_SHARE * TEMPERATURE**2 * soft
