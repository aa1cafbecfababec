"""Purses: shares, clipping, prices."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strop.strategies.kit.budget import Budget, Purse
from strop.strategies.kit.errors import BudgetSpent
from strop.strategies.kit.ops import Generate, Score, Verify
from strop.strategies.kit.types import Chat, Sampling, Usage

LIMIT = st.none() | st.integers(0, 500)


def test_a_purse_without_limits_admits_everything_as_it_is() -> None:
    op = Generate(Chat(sampling=Sampling(max_tokens=7)), n=100)
    admitted = Purse().admit(op)
    assert admitted.op is not None
    assert (admitted.op, admitted.clipped) == (op, False)


def test_shares_are_equal_and_the_first_branches_get_what_does_not_divide() -> None:
    shares = Purse(tokens=11, calls=5, usd=1.0).shares(4)
    assert [s.tokens for s in shares] == [3, 3, 3, 2]
    assert [s.calls for s in shares] == [2, 1, 1, 1]
    assert [s.usd for s in shares] == [0.25] * 4


@given(tokens=st.integers(0, 1000), spent=st.integers(0, 1200), branches=st.integers(1, 20))
def test_shares_add_up_to_what_is_left(tokens: int, spent: int, branches: int) -> None:
    purse = Purse(tokens=tokens)
    purse.charge(Usage(completion=spent), "policy")
    shares = [s.tokens or 0 for s in purse.shares(branches)]
    assert sum(shares) == max(0, tokens - spent)
    assert max(shares) - min(shares) <= 1


@given(
    tokens=LIMIT,
    calls=LIMIT,
    ops=st.lists(st.tuples(st.integers(1, 9), st.none() | st.integers(1, 90)), max_size=12),
)
def test_ops_that_use_all_they_may_never_exceed_the_purse(
    tokens: int | None, calls: int | None, ops: list[tuple[int, int | None]]
) -> None:
    purse = Purse(tokens, calls)
    for n, most in ops:
        try:
            op = purse.admit(Generate(Chat(sampling=Sampling(max_tokens=most)), n=n)).op
        except BudgetSpent:
            continue
        assert isinstance(op, Generate)
        used = op.n * (op.chat.sampling.max_tokens or 60)
        purse.charge(Usage(completion=used, calls=op.n), "policy")
        assert 1 <= op.n <= n
    assert tokens is None or purse.spent.completion <= tokens
    assert calls is None or purse.spent.calls <= calls


def test_drafts_share_what_is_left_and_fewer_are_made_when_there_are_more_drafts_than_tokens() -> None:
    op = Purse(tokens=10).admit(Generate(Chat(sampling=Sampling(max_tokens=100)), n=4)).op
    assert isinstance(op, Generate)
    assert (op.n, op.chat.sampling.max_tokens) == (4, 2)
    op = Purse(tokens=3).admit(Generate(Chat(), n=8)).op
    assert isinstance(op, Generate)
    assert (op.n, op.chat.sampling.max_tokens) == (3, 1)


def test_a_clients_own_smaller_limit_is_not_called_clipping() -> None:
    assert not Purse(tokens=100).admit(Generate(Chat(sampling=Sampling(max_tokens=10)))).clipped
    assert Purse(tokens=5).admit(Generate(Chat(sampling=Sampling(max_tokens=10)))).clipped


def test_the_least_number_of_tokens_is_cut_with_the_most() -> None:
    op = Purse(tokens=5).admit(Generate(Chat(sampling=Sampling(min_tokens=50)))).op
    assert isinstance(op, Generate)
    assert op.chat.sampling.min_tokens == 5


@pytest.mark.parametrize(
    ("purse", "what"), [(Purse(tokens=0), "tokens"), (Purse(calls=0), "calls"), (Purse(usd=0.0), "usd")]
)
def test_an_empty_purse_admits_nothing_and_says_what_is_spent(purse: Purse, what: str) -> None:
    for op in (Generate(Chat()), Score(Chat(), ())):
        with pytest.raises(BudgetSpent) as spent:
            purse.admit(op)
        assert spent.value.what == what


def test_a_program_may_check_drafts_even_when_everything_is_spent() -> None:
    op = Verify(Chat(), (), "json_object")
    assert Purse(tokens=0, calls=0, usd=0.0).admit(op).op is op


def test_inserted_tokens_count_as_spent() -> None:
    purse = Purse(tokens=10)
    purse.charge(Usage(completion=4, injected=6), "policy")
    assert purse.left()[0] == 0


def test_money_is_counted_at_the_price_of_the_role() -> None:
    purse = Purse.of(Budget(usd=1.0), lambda usage, role: usage.completion * (0.5 if role == "judge" else 0.25))
    purse.charge(Usage(completion=1), "judge")
    purse.charge(Usage(completion=1), "policy")
    assert purse.spent_usd == 0.75
    child = purse.shares(1)[0]
    child.charge(Usage(completion=1), "policy")
    purse.absorb([child])
    assert purse.left()[2] == 0.0


def test_usage_adds_up_field_by_field() -> None:
    one = Usage(1, 2, 3, 4, 5, 0.5)
    assert one + one == Usage(2, 4, 6, 8, 10, 1.0)
    assert replace(one) + Usage() == one
