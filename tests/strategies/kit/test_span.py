"""Places: keys, seeds, receipts."""

from __future__ import annotations

from strop.strategies.kit.budget import Purse
from strop.strategies.kit.span import Branch, Span, mix
from strop.strategies.kit.types import Usage


def test_a_key_depends_on_the_program_only() -> None:
    root = Branch("run", Purse())
    assert root.next() == 1
    children = root.children("try", 2)
    assert [c.path for c in children] == ["run/2.try[0]", "run/2.try[1]"]
    assert root.next() == 3
    assert children[1].children("again", 1)[0].path == "run/2.try[1]/1.again[0]"
    assert children[1].children("again", 1)[0].order == (2, 1, 2, 0)


def test_seeds_are_positive_31_bit_numbers_that_differ_by_key_and_seed() -> None:
    seeds = [mix(seed, key) for seed in range(50) for key in ("a#1", "a#2")]
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert len(set(seeds)) == 100
    assert mix(1, "a#1") == mix(1, "a#1")


def test_what_is_done_on_behalf_of_an_op_is_on_its_receipt() -> None:
    span = Span("run#1", seed=3)
    child = span.child("judge[0]")
    child.receipt.own = Usage(prompt=2, completion=1, calls=1)
    child.child("again").receipt.own = Usage(completion=4)
    span.receipt.own = Usage(prompt=1)
    assert span.receipt.usage == Usage(prompt=3, completion=5, calls=1)
    assert child.key == "run#1/judge[0]"
    assert child.seed == mix(3, "judge[0]")
    assert Span("run#1").child("x").seed is None
