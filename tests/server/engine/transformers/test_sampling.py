"""The sampler: every processor against its formula written out, statistics against float64."""

from __future__ import annotations

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the embedded engine needs torch")

from strop.server.engine.chat.types import TokenRequest  # noqa: E402
from strop.server.engine.transformers.sampling import RowSampling, process, row_stats, sample  # noqa: E402

PROMPT = (3, 5)


def row(index: int = 0, seed: int = 7, eos: tuple[int, ...] = (0,), **settings: Any) -> RowSampling:
    return RowSampling.of(TokenRequest(PROMPT, **settings), seed, index, eos)


def logits(rows: int = 1, size: int = 50, scale: float = 3.0) -> Any:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(1)) * scale


def after(state: RowSampling, generated: tuple[int, ...] = ()) -> tuple[list[float], list[float]]:
    """One row before and after the processors."""
    for token in generated:
        state.remember(token)
    score = logits()[0]
    before = score.tolist()
    process(score, state)
    return before, score.tolist()


def test_presence_and_frequency_look_at_generated_tokens_only() -> None:
    before, got = after(row(presence_penalty=0.5, frequency_penalty=0.25), (9, 9, 11))
    want = list(before)
    want[9] -= 0.5 + 0.25 * 2
    want[11] -= 0.5 + 0.25
    assert got == pytest.approx(want)


def test_repetition_looks_at_prompt_and_generated_tokens() -> None:
    before, got = after(row(repetition_penalty=1.3), (9,))
    want = list(before)
    for i in (*PROMPT, 9):
        want[i] = before[i] / 1.3 if before[i] > 0 else before[i] * 1.3
    assert got == pytest.approx(want)


def test_logit_bias_adds() -> None:
    before, got = after(row(logit_bias=((4, 2.5), (6, -100.0))))
    want = list(before)
    want[4] += 2.5
    want[6] -= 100.0
    assert got == pytest.approx(want)


def test_min_tokens_holds_back_the_ends_until_enough_tokens_are_made() -> None:
    state = row(min_tokens=2, stop_token_ids=(8,))
    _, got = after(state, (1,))
    assert got[0] == got[8] == -math.inf
    assert sum(value == -math.inf for value in got) == 2
    state.remember(1)
    before, got = after(state)
    assert got == before


def test_min_tokens_gives_way_when_a_grammar_allows_only_the_end() -> None:
    state = row(min_tokens=2)
    state.allowed = torch.zeros(50, dtype=torch.bool)
    state.allowed[0] = True
    assert sample(logits(), [state])[0].id == 0


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_statistics_are_those_of_the_raw_distribution(scale: float) -> None:
    x = logits(4, 1000, scale)
    p = torch.softmax(x.double(), -1)
    states = [row(i, temperature=1.7, top_k=5, logit_bias=((2, 9.0),), top_logprobs=3) for i in range(4)]
    for i, token in enumerate(sample(x, states)):
        logp = p[i].log()
        assert token.logprob == pytest.approx(logp[token.id].item(), abs=1e-4)
        assert token.entropy == pytest.approx(-(p[i] * logp).nansum().item(), abs=1e-4)
        assert token.certainty == pytest.approx((-logp.mean() - math.log(1000)).item(), abs=1e-3)
        best = logp.topk(3)
        assert [t.id for t in token.top] == best.indices.tolist()
        assert [t.logprob for t in token.top] == pytest.approx(best.values.tolist(), abs=1e-4)


def test_impossible_tokens_count_as_probability_zero() -> None:
    x = torch.tensor([[0.0, -math.inf, 0.0, -math.inf]])
    assert row_stats(x).entropy.item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_row_is_an_error_of_its_own(bad: float) -> None:
    x = logits(3)
    x[1, 4] = bad
    got = sample(x, [row(i) for i in range(3)])
    assert "finite" in got[1].error
    alone = [sample(logits(3)[i : i + 1], [row(i)])[0] for i in (0, 2)]
    assert [got[0], got[2]] == alone


def test_a_row_without_any_allowed_token_is_an_error() -> None:
    state = row()
    state.allowed = torch.zeros(50, dtype=torch.bool)
    assert "no token is allowed" in sample(logits(), [state])[0].error


def frequencies(draws: int = 4000, **settings: Any) -> Any:
    """Relative frequencies over a small vocabulary."""
    x = logits(1, 12, 1.0)
    counts = torch.zeros(12)
    state = row(**settings)
    for token in sample(x.expand(draws, -1).clone(), [state] * draws):
        counts[token.id] += 1
    return counts / draws, x[0]


def nucleus(p: Any, top_p: float) -> Any:
    order = p.argsort(descending=True)
    keep = order[: int((p[order].cumsum(0) - p[order] < top_p).sum())]
    return torch.zeros_like(p).index_copy(0, keep, p[keep])


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, lambda p: p),
        ({"top_k": 3}, lambda p: p * (p >= p.topk(3).values[-1])),
        ({"top_p": 0.6}, lambda p: nucleus(p, 0.6)),
        ({"min_p": 0.3}, lambda p: p * (p >= 0.3 * p.max())),
        (
            {"top_k": 4, "top_p": 0.7},
            lambda p: nucleus(k / k.sum(), 0.7) if (k := p * (p >= p.topk(4).values[-1])) is not None else p,
        ),
    ],
)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_truncated_distribution(settings: dict[str, Any], kept: Any, temperature: float) -> None:
    got, x = frequencies(temperature=temperature, **settings)
    want = kept(torch.softmax(x / temperature, -1))
    want = want / want.sum()
    assert ((want == 0) <= (got == 0)).all()
    assert (got - want).abs().max() < 0.04  # 5 standard deviations of 4000 draws


def test_top_p_is_exact_when_the_nucleus_is_wide() -> None:
    x = logits(1, 9000, 0.1)
    state = row(top_p=0.9)
    ids = {token.id for token in sample(x.expand(200, -1).clone(), [state] * 200)}
    want = nucleus(torch.softmax(x[0].double(), -1), 0.9)
    assert (want > 0).sum() > 4096
    assert all(want[i] > 0 for i in ids)


@pytest.mark.parametrize("temperature", [0.0, 1e-8])
def test_no_heat_is_the_best_token(temperature: float) -> None:
    x = logits(3)
    assert [t.id for t in sample(x, [row(i, temperature=temperature) for i in range(3)])] == x.argmax(-1).tolist()


def test_a_row_draws_the_same_whatever_its_company() -> None:
    x = logits(5)
    together = sample(x, [row(i, top_p=0.5 + i / 10, temperature=i / 2) for i in range(5)])
    alone = [sample(x[i : i + 1], [row(i, top_p=0.5 + i / 10, temperature=i / 2)])[0] for i in range(5)]
    assert [t.id for t in together] == [t.id for t in alone]


@pytest.mark.parametrize(
    "wrong",
    [{"n": 0}, {"temperature": -1}, {"top_p": 0}, {"top_k": -1}, {"min_p": 2}, {"top_logprobs": 21}, {"stop": ("",)},
     {"max_tokens": 0}, {"repetition_penalty": 0.0}, {"temperature": math.nan}],
)  # fmt: skip
def test_a_wrong_request_says_what_is_wrong(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TokenRequest(PROMPT, **wrong)
