"""How two numbers per token travel from the worker to us: packed beside the rank of the sampled token.

vLLM sends an int64 rank with every logprob. The worker puts the entropy and the self-certainty of the row above it:

    bits  0..19  the rank itself (vocabularies up to a million tokens)
    bits 20..43  entropy, in steps of 2^-20 nats, plus one; 0 says that nothing was measured
    bits 44..62  self-certainty, in steps of 2^-13 nats, below 64

so entropies are exact to 5e-7 nats and certainties to 6e-5. The values survive streaming, batching and aborts because
they are part of the token.
"""

from __future__ import annotations

from typing import NamedTuple

RANK_BITS, ENTROPY_BITS, CERTAINTY_BITS = 20, 24, 19
ENTROPY_STEP, CERTAINTY_STEP = 2.0**-20, 2.0**-13
ENTROPY_MAX, CERTAINTY_MAX = (1 << ENTROPY_BITS) - 2, (1 << CERTAINTY_BITS) - 1
CERTAINTY_SHIFT = RANK_BITS + ENTROPY_BITS
OPT_IN = "strop_stats"
"""Key of `SamplingParams.extra_args` by which a request asks for the numbers."""


class Measured(NamedTuple):
    """What came with one token, in nats; both None if the worker measured nothing."""

    rank: int
    entropy: float | None
    certainty: float | None


def unpack(stamped: int) -> Measured:
    """The numbers of one token. `measure` packs them."""
    rank = stamped & ((1 << RANK_BITS) - 1)
    steps = stamped >> RANK_BITS & ((1 << ENTROPY_BITS) - 1)
    if steps == 0:
        return Measured(rank, None, None)
    return Measured(rank, (steps - 1) * ENTROPY_STEP, (stamped >> CERTAINTY_SHIFT) * CERTAINTY_STEP)
