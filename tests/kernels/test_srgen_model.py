"""The state form of the corrective fit on real positions of SmolLM2, against the exact form."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from strop.kernels import FitKnobs, Flagged, Head, Prefix, SlotState, row_stats, srgen_fit, srgen_observe

MODEL = Path(os.environ.get("STROP_TEST_MODEL", "~/.cache/strop/models/smollm2-135m")).expanduser()
KNOBS = FitKnobs(steps=3, lr=0.01, entropy_weight=0.05, temperature=0.6)
TEXT = (
    "A train leaves the station at 9:40 and travels 135 kilometres in an hour and a half. How fast is it?\n"
    "Let us think. An hour and a half is 1.5 hours, and speed is distance over time, so the train goes 135 / 1.5 = 90 "
    "kilometres per hour. A second train, leaving twenty minutes later from the same platform, has to catch up before "
    "the tunnel. Since the first one is then already 30 kilometres ahead, the second must be faster; wait, perhaps the "
    "question is only about the first train, whose answer we have, although nobody asked what colour it was."
)


@pytest.mark.model
@pytest.mark.skipif(not (MODEL / "config.json").exists(), reason=f"no model folder at {MODEL}")
def test_the_state_form_stays_within_a_thousandth_of_a_nat_of_the_exact_one() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(MODEL)(TEXT, return_tensors="pt").input_ids
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    with torch.no_grad():
        hidden = model.model(ids).last_hidden_state[0]
    head, labels = Head(model.lm_head.weight.detach()), ids[0, 1:]
    logits = head.logits(hidden)
    entropy = row_stats(logits).entropy
    spots = (entropy[60:-1].topk(6).indices + 60).sort().values.tolist()  # where the gate would fire
    flagged = Flagged(*(torch.tensor([n], dtype=torch.int32) for n in (0, 1, 0)), torch.zeros(1))
    gaps, effects = [], []
    for spot in spots:
        prefix, last = Prefix(labels[:spot], logits=logits[:spot]), logits[spot : spot + 1]
        exact = srgen_fit(last, flagged, head, [(prefix, KNOBS)])
        state = SlotState.allocate(1, logits.shape[1], "cpu", sparse=20, max_tokens=256)
        state.open(0, KNOBS)
        where = {"labels": labels[:spot], "offsets": torch.tensor([0, spot])}
        srgen_observe(state, torch.tensor([0]), logits[:spot], row_stats(logits[:spot], topk=20), **where)
        fast = srgen_fit(last, flagged, head, state, slots=torch.tensor([0]))
        base, wanted, got = (
            torch.log_softmax((last + head.linear(d)).double()[0], 0) for d in (exact * 0, exact, fast)
        )
        gaps.append(float((wanted.exp() * (wanted - got)).sum()))
        effects.append(float((wanted.exp() * (wanted - base)).sum()))
    assert max(gaps) < 1e-3, gaps
    assert min(effects) > 30 * max(gaps), (effects, gaps)  # the correction is far larger than its error
