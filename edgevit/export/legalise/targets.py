"""Which rules each target needs: those for what its converter lacks, or translates wrongly."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from edgevit.export.legalise import Rules
from edgevit.export.legalise.arithmetic import (
    BATCH_NORM_RULES,
    BOOLEAN_RULES,
    EXTREME_RULES,
    LAYER_NORM_RULES,
    LOGICAL_RULES,
    ONE_HOT_RULES,
    SUBTRACTION_RULES,
)
from edgevit.export.legalise.attention import ATTENTION_RULES
from edgevit.export.legalise.borders import BORDER_RULES, TRANSPOSED_RULES
from edgevit.export.legalise.deformable import DEFORMABLE_RULES
from edgevit.export.legalise.einsum import EINSUM_RULES
from edgevit.export.legalise.functions import BIT_RULES, CHOICE_RULES, FUNCTION_RULES
from edgevit.export.legalise.integers import DIVISION_RULES, REMAINDER_RULES
from edgevit.export.legalise.limits import LIMIT_RULES
from edgevit.export.legalise.moves import MOVE_RULES
from edgevit.export.legalise.overhang import OVERHANG_RULES
from edgevit.export.legalise.pixels import PIXEL_RULES
from edgevit.export.legalise.places import PLACE_RULES
from edgevit.export.legalise.pooling import POOLING_RULES
from edgevit.export.legalise.products import PRODUCT_RULES, SUM_RULES
from edgevit.export.legalise.puts import PUT_RULES, SEARCH_RULES
from edgevit.export.legalise.resizing import RESIZING_RULES
from edgevit.export.legalise.sampling import SAMPLING_RULES
from edgevit.export.legalise.scales import SCALE_RULES
from edgevit.export.legalise.scatter import SCATTER_REDUCE, SCATTER_RULE
from edgevit.export.legalise.singles import SINGLE_RULES
from edgevit.export.legalise.statistics import LEARNED_RULES, RMS_RULES, STATISTICS_RULES
from edgevit.export.legalise.types import TYPE_RULES
from edgevit.export.legalise.windows import WINDOW_RULES

aten = torch.ops.aten
TVM: Rules = {
    SCATTER_REDUCE: SCATTER_RULE,
    **BATCH_NORM_RULES,  # its importer takes the momentum for epsilon
    **LAYER_NORM_RULES,
    **BOOLEAN_RULES,
    **ONE_HOT_RULES,
    **EXTREME_RULES,
    **SUBTRACTION_RULES,
    **TYPE_RULES,
    **LIMIT_RULES,
    **STATISTICS_RULES,
    **PLACE_RULES,
    **PRODUCT_RULES,
    aten.addbmm.default: SUM_RULES[aten.addbmm.default],
    **PIXEL_RULES,
    **DEFORMABLE_RULES,
    **SAMPLING_RULES,
    **RESIZING_RULES,
    **WINDOW_RULES,
    **POOLING_RULES,
}
_OF_PLACES = (aten.unfold.default, aten.scatter.src, aten.scatter_add.default, aten.scatter.reduce)
_WITH_ALPHA = (aten.add.Tensor, aten.sub.Tensor)
_RANKED = (aten.median.dim, aten.median.default, aten.kthvalue.default)
COREML: Rules = {
    **ATTENTION_RULES,  # coremltools lets a row that forbids every key look at all of them, or gives no number
    **LOGICAL_RULES,  # coremltools knows them by other names than a program has for them
    **BOOLEAN_RULES,
    **ONE_HOT_RULES,
    **DIVISION_RULES,  # coremltools divides in float32
    **REMAINDER_RULES,
    **DEFORMABLE_RULES,
    **EINSUM_RULES,  # coremltools permutes some of them wrongly
    **WINDOW_RULES,  # coremltools unfolds by a convolution with (C k²)² weights
    **{operator: PLACE_RULES[operator] for operator in _OF_PLACES},
    **{operator: TYPE_RULES[operator] for operator in _WITH_ALPHA},
    **{operator: STATISTICS_RULES[operator] for operator in _RANKED},
    **SUBTRACTION_RULES,
    **RESIZING_RULES,  # coremltools drops the filter
    **SCALE_RULES,
    **PRODUCT_RULES,
    **SUM_RULES,
    **RMS_RULES,
    **LEARNED_RULES,  # coremltools takes the mean and variance of every map instead
    **FUNCTION_RULES,
    **CHOICE_RULES,
    **BIT_RULES,
    **BORDER_RULES,
    **TRANSPOSED_RULES,
    **OVERHANG_RULES,
    **MOVE_RULES,
    **PUT_RULES,
    **SEARCH_RULES,
    **SINGLE_RULES,
}
ONNX: Rules = {
    SCATTER_REDUCE: SCATTER_RULE,  # it has no scattered mean; torch.onnx writes another function for it
    **DEFORMABLE_RULES,  # torch.onnx has no DeformConv, and TensorRT's parser wants a plugin for it
}
RULES: Mapping[str, Rules] = {"tvm": TVM, "coreml": COREML, "onnx": ONNX}
