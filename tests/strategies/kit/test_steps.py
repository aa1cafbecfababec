"""Steps of an answer, and one score from the scores of its steps."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strop.strategies.kit.steps import aggregate, fences, inside, join, split

PIECES = st.sampled_from(
    [
        "\n",
        "\n\n",
        " ",
        "\t",
        "\r\n",
        "```",
        "~~~~",
        "```py\n",
        "Step 1:",
        "Step 12",
        "1. ",
        "2) x",
        "# H",
        "**b**",
        "word",
        "é.",
    ]
)
TEXTS = st.lists(PIECES, max_size=25).map("".join) | st.text(max_size=60)


@given(TEXTS)
@settings(deadline=None)
def test_joining_the_steps_gives_the_text_back(text: str) -> None:
    assert join(split(text)) == text


@given(TEXTS)
@settings(deadline=None)
def test_no_step_is_blank_unless_the_whole_text_is(text: str) -> None:
    steps = split(text)
    assert all(step.strip() for step in steps) or (len(steps) == 1 and not text.strip())


@given(TEXTS)
@settings(deadline=None)
def test_no_cut_lies_inside_a_code_block(text: str) -> None:
    blocks = fences(text)
    at = 0
    for step in split(text)[:-1]:
        at += len(step)
        assert not inside(at, blocks)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("", []),
        ("one", ["one"]),
        ("one\n\ntwo\n \n\nthree", ["one\n\n", "two\n \n\n", "three"]),
        ("Intro\nStep 1: a\nmore\nStep 2: b", ["Intro\n", "Step 1: a\nmore\n", "Step 2: b"]),
        ("So:\n1. a\n2) b\n   1. nested", ["So:\n", "1. a\n", "2) b\n", "   1. nested"]),
        ("a\n    1. deep", ["a\n    1. deep"]),
        ("in 1.5 m\n3.14 is pi", ["in 1.5 m\n3.14 is pi"]),
        ("**Step 1**\n\nadd\n\n## Next\n\nend", ["**Step 1**\n\nadd\n\n", "## Next\n\nend"]),
        ("\n\nfirst\n\n", ["\n\nfirst\n\n"]),
        ("a\r\n\r\nb", ["a\r\n\r\n", "b"]),
    ],
)
def test_steps_end_at_blank_lines_step_headings_and_list_items(text: str, steps: list[str]) -> None:
    assert split(text) == steps


def test_a_code_block_is_never_cut_even_when_it_is_not_closed() -> None:
    code = "```py\nx = 1\n\nStep 1: no\n1. no\n"
    assert split(f"a\n\n{code}```\n\nb") == ["a\n\n", f"{code}```\n\n", "b"]
    assert split(f"a\n\n{code}") == ["a\n\n", code]


def test_a_fence_closes_only_with_the_same_sign_as_long_and_bare() -> None:
    [block] = fences("````json\n```\n~~~~\n```` x\n{}\n`````\nafter")
    assert (block.info, block.body, block.closed) == ("json", "```\n~~~~\n```` x\n{}\n", True)
    assert fences("```inline``` is no block\nx") == []


SCORES = [0.5, 0.25, 1.0]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("last", 1.0),
        ("min", 0.25),
        ("max", 1.0),
        ("prod", 0.125),
        ("mean", 1.75 / 3),
        ("weighted", (0.5 + 0.5 + 3) / 6),
    ],
)
def test_every_aggregation_gives_its_closed_form(how: str, expected: float) -> None:
    assert aggregate(SCORES, how) == pytest.approx(expected)  # type: ignore[arg-type]


def test_the_default_is_the_last_step() -> None:
    assert aggregate(SCORES) == 1.0


@pytest.mark.parametrize("how", ["last", "min", "max", "prod", "mean", "weighted"])
def test_no_score_comes_from_nothing_nor_from_a_missing_step(how: str) -> None:
    for scores in ([], [0.5, None], [None], [math.nan, 0.5]):
        assert aggregate(scores, how) is None  # type: ignore[arg-type]


def test_given_weights_are_used_and_must_fit() -> None:
    assert aggregate([0.0, 1.0], "weighted", weights=[3, 1]) == 0.25
    for weights in ([1], [0, 0], [-1, 2], [math.inf, 1], [math.nan, 1]):
        with pytest.raises(ValueError, match="weights"):
            aggregate([0.0, 1.0], "weighted", weights=weights)
    with pytest.raises(ValueError, match="weights mean nothing to 'min'"):
        aggregate([0.0, 1.0], "min", weights=[1, 1])
