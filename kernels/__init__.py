"""Tensors in, tensors out: token statistics, sequence scores, gates and corrective fits. CUDA runs Triton, everything
else torch; see `dispatch`."""

from strop.kernels.confidence_gate import ConfidenceGate, Confidences, confidence_gate
from strop.kernels.entropy_gate import EntropyGate, EntropyKnobs, Flagged, entropy_gate
from strop.kernels.head import Head
from strop.kernels.row_stats import RowStats, Workspace, row_stats
from strop.kernels.score_hidden import score_hidden
from strop.kernels.score_sequences import SegmentStats, SequenceScores, reduce_segments, score_sequences
from strop.kernels.self_check import Health, self_check
from strop.kernels.slot_fit import PromptFit, slot_fit
from strop.kernels.srgen_fit import FitWorkspace, Prefix, srgen_apply, srgen_fit
from strop.kernels.srgen_state import FitKnobs, SlotState, srgen_label, srgen_observe
from strop.kernels.sum_softmax import sum_softmax

__all__ = [
    "ConfidenceGate",
    "Confidences",
    "EntropyGate",
    "EntropyKnobs",
    "FitKnobs",
    "FitWorkspace",
    "Flagged",
    "Head",
    "Health",
    "Prefix",
    "PromptFit",
    "RowStats",
    "SegmentStats",
    "SequenceScores",
    "SlotState",
    "Workspace",
    "confidence_gate",
    "entropy_gate",
    "reduce_segments",
    "row_stats",
    "score_hidden",
    "score_sequences",
    "self_check",
    "slot_fit",
    "srgen_apply",
    "srgen_fit",
    "srgen_label",
    "srgen_observe",
    "sum_softmax",
]
