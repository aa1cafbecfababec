"""The calls that are timed: each with its byte and FLOP model and, where one exists, the same result in eager torch.

Legend: B rows, V vocabulary, T tokens, d hidden size, F flagged rows of a capacity of 16.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from strop.kernels import (
    ConfidenceGate,
    EntropyGate,
    EntropyKnobs,
    FitKnobs,
    FitWorkspace,
    Flagged,
    Head,
    SlotState,
    confidence_gate,
    entropy_gate,
    row_stats,
    score_hidden,
    srgen_apply,
    srgen_fit,
    srgen_observe,
    sum_softmax,
)

Call = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """One row of the table: `moved` bytes and `flop` give the floor; others are baselines by column name."""

    kernel: str
    shape: str
    dtype: str
    moved: float
    flop: float
    call: Call
    others: dict[str, Call] = field(default_factory=dict)


@dataclass(frozen=True)
class Sizes:
    """What is measured on a kind of machine."""

    rows: tuple[int, ...]
    vocabularies: tuple[int, ...]
    tokens: tuple[int, ...]
    head: tuple[int, int]
    slots: int
    compile_rows: tuple[int, ...]


FULL = Sizes((1, 16, 64, 256), (32000, 128256, 151936), (128, 512, 4096), (151936, 4096), 64, (16, 256))
QUICK = Sizes((16, 256), (151936,), (512,), (151936, 4096), 64, (256,))
CPU = Sizes((1, 16), (49152, 151936), (64,), (49152, 576), 4, ())


def name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def eager_stats(logits: Tensor, targets: Tensor, topk: int) -> list[Tensor]:
    """What one writes without a kernel: the same statistics from a log-softmax."""
    logp = torch.log_softmax(logits.float(), dim=1)
    picked = logp.gather(1, targets[:, None])
    entropy = -(logp.exp() * logp).sum(dim=1)
    return [picked, entropy, (logp > picked).sum(dim=1), logp.mean(dim=1), *(logp.topk(topk, dim=1) if topk else ())]


def row_cases(sizes: Sizes, device: str) -> Iterator[Case]:
    for vocab in sizes.vocabularies:
        for dtype in (torch.float32, torch.bfloat16):
            for rows in sizes.rows:
                x, y = (
                    torch.randn(rows, vocab, device=device).to(dtype),
                    torch.zeros(rows, dtype=torch.int64, device=device),
                )
                for topk in (0, 20):
                    others: dict[str, Call] = {"eager": lambda x=x, y=y, k=topk: eager_stats(x, y, k)}
                    if rows in sizes.compile_rows and vocab == 151936:
                        compiled = torch.compile(eager_stats, dynamic=False)
                        others["torch_compile"] = lambda x=x, y=y, k=topk, f=compiled: f(x, y, k)
                    yield Case(
                        f"row_stats topk={topk}", f"B={rows} V={vocab}", name(dtype),
                        x.nbytes + (x.numel() / 8 if topk else 0), 0,
                        lambda x=x, y=y, k=topk: row_stats(x, y, None, k), others,
                    )  # fmt: skip


def score_cases(sizes: Sizes, device: str) -> Iterator[Case]:
    vocab, size = sizes.head
    weight = (torch.randn(vocab, size, device=device) * 0.02).bfloat16()
    for tokens in sizes.tokens:
        hidden = torch.randn(tokens, size, device=device).bfloat16()
        y = torch.zeros(tokens, dtype=torch.int64, device=device)
        flop = 2.0 * tokens * vocab * size
        others: dict[str, Call] = {"eager": lambda h=hidden, y=y: eager_stats(h @ weight.T, y, 0)}
        others |= fused_baselines(hidden, weight, y) if device == "cuda" else {}
        shape, moved = f"T={tokens} V={vocab} d={size}", weight.nbytes + hidden.nbytes
        call = lambda h=hidden, y=y: score_hidden(h, Head(weight), y)  # noqa: E731
        yield Case("score_hidden", shape, "bfloat16", moved, flop, call, others)
        yield Case(
            "score_hidden forward+backward", shape, "bfloat16", 3 * moved, 3 * flop,
            lambda h=hidden, y=y: score_with_gradient(h, Head(weight), y),
        )  # fmt: skip


def score_with_gradient(hidden: Tensor, head: Head, targets: Tensor) -> Tensor:
    hidden = hidden.detach().requires_grad_()
    stats = score_hidden(hidden, head, targets)
    return torch.autograd.grad(stats.logprob.sum() + stats.entropy.sum(), hidden)[0]


def fused_baselines(hidden: Tensor, weight: Tensor, targets: Tensor) -> dict[str, Call]:
    """Libraries that give the log-probability alone (no entropy), if installed."""
    found: dict[str, Call] = {}
    if importlib.util.find_spec("liger_kernel"):
        liger = importlib.import_module("liger_kernel.transformers.functional")
        found["liger"] = lambda: liger.liger_fused_linear_cross_entropy(hidden, weight, targets, reduction="none")
    if importlib.util.find_spec("cut_cross_entropy"):
        cce = importlib.import_module("cut_cross_entropy")
        found["cce"] = lambda: cce.linear_cross_entropy(hidden, weight, targets, reduction="none")
    return found


def gate_cases(_: Sizes, device: str) -> Iterator[Case]:
    rows = 256
    slots = torch.arange(rows, dtype=torch.int32, device=device)
    gate, values = EntropyGate.allocate(rows, device), torch.rand(rows, device=device)
    groups = ConfidenceGate.allocate(rows, device)
    for slot in range(rows):
        gate.open(slot, EntropyKnobs())
        groups.open(slot)
    out = Flagged.allocate(rows, 16, device)
    yield Case(
        "entropy_gate", f"B={rows} window=25", "float32", rows * 4 * (32 + 12), 0,
        lambda: entropy_gate(values, slots, gate, out=out),
    )  # fmt: skip
    yield Case(
        "confidence_gate",
        f"B={rows} window=2048",
        "float32",
        rows * 4 * 2048,
        0,
        lambda: confidence_gate(values, slots, groups),
    )


def flags(count: int, device: str) -> Flagged:
    rows = torch.arange(16, dtype=torch.int32, device=device)
    rows[count:] = -1
    number = torch.tensor([count], dtype=torch.int32, device=device)
    return Flagged(rows, number, number, number)


def srgen_cases(sizes: Sizes, device: str) -> Iterator[Case]:
    (vocab, size), slots = sizes.head, sizes.slots
    head = Head((torch.randn(vocab, size, device=device) * 0.02).bfloat16())
    state, rows = SlotState.allocate(slots, vocab, device, max_tokens=1024), min(slots, 16)
    logits, ids = torch.randn(rows, vocab, device=device) * 3, torch.arange(rows, device=device)
    stats = row_stats(logits, topk=20)
    for slot in range(slots):
        state.open(slot, FitKnobs())
    yield Case(
        "srgen_observe", f"B={rows} V={vocab}", "float32", 12.0 * rows * vocab, 0,
        lambda: srgen_observe(state, ids, logits, stats, labels=ids),
    )  # fmt: skip
    work = FitWorkspace.allocate(state, 16, size) if device == "cuda" else None
    for count in sorted({0, 1, rows}):
        flagged = flags(count, device)
        shape = f"F={count} V={vocab} d={size}"
        for steps in (1, 3):
            moved = head.weight.nbytes * (2 * steps - 1) + 40.0 * count * vocab * steps if count else 64
            yield Case(
                f"srgen_fit state steps={steps}", shape, "bfloat16", moved, 0,
                lambda f=flagged, s=steps: srgen_fit(logits, f, head, state, slots=ids, max_steps=s, workspace=work),
            )  # fmt: skip
        delta = torch.zeros(16, size, device=device)
        moved = head.weight.nbytes + 8.0 * count * vocab if count else 64
        yield Case(
            "srgen_apply", shape, "bfloat16", moved, 0, lambda f=flagged, d=delta: srgen_apply(logits, f, head, d)
        )
    prefix = torch.randn(sizes.tokens[-1], vocab, device=device).bfloat16()
    bias = torch.randn(vocab, device=device)
    yield Case(
        "sum_softmax (one exact step)", f"n={prefix.shape[0]} V={vocab}", "bfloat16", 2.0 * prefix.nbytes, 0,
        lambda: sum_softmax(prefix, bias), {"eager": lambda: torch.softmax(prefix.float() + bias, 1).sum(0)},
    )  # fmt: skip


def every_case(sizes: Sizes, device: str) -> Iterator[Case]:
    """All cases, made one group at a time so that one group's tensors are gone before the next."""
    for group in (row_cases, score_cases, gate_cases, srgen_cases):
        yield from group(sizes, device)
