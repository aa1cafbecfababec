"""SLOT (arXiv 2505.12392): one corrective vector per request, fitted on its prompt and added at every later position.

Legend: n prompt positions, V vocabulary, d hidden size. The loss is the prompt's cross-entropy alone, so this is
`srgen_fit`'s exact form with entropy weight 0. Because delta is shared by all positions, it acts as a constant bias
u = scale * W delta on the (uncapped) logits: fit once, then `logits[row] += u` at each step (composes with SRGen:
observe and fit on the biased logits). Bytes moved: steps * (2 n V itemsize + 2 V d itemsize), once per request; 8 V
per row and step afterwards.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from strop.kernels.head import Head
from strop.kernels.srgen_fit import Prefix, fit_prefix
from strop.kernels.srgen_state import FitKnobs


class PromptFit(NamedTuple):
    """delta [d] and the shift u [V] of the logits before the cap, fp32."""

    delta: Tensor
    bias: Tensor


def slot_fit(prefix: Prefix, head: Head, *, steps: int = 5, lr: float = 0.1) -> PromptFit:
    """Fit the constant correction of a request.

    Args:
        prefix: the prompt's positions and the tokens that follow them.
        head: weight [V, d], scale and soft-cap.
        steps: AdamW steps.
        lr: learning rate; steps * lr is the strength, and the published values are tuned per model.
    """
    delta = fit_prefix(prefix, head, FitKnobs(steps=steps, lr=lr, entropy_weight=0.0), last=None)
    return PromptFit(delta, head.linear(delta[None])[0])
