"""Verdicts read from the text of a judge; the unclear is None."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strop.strategies.kit.parse import score, verdict_json, yes_no

PIECES = (
    *(
        "Verdict:",
        "yes",
        "no",
        "\n",
        " ",
        "**",
        "Score: 7",
        "7/10",
        "8",
        '{"score": ',
        '{"verdict": ',
        '"yes"',
        "}",
        "is",
    ),
    *("is", "<think>", "</think>", "correct", "not", ".", "NaN"),
)
TEXTS = st.text(max_size=60) | st.lists(st.sampled_from(PIECES), max_size=15).map("".join)


@given(TEXTS)
@settings(deadline=None)
def test_any_text_has_a_verdict_or_none(text: str) -> None:
    assert yes_no(text) in (True, False, None)
    value = score(text, 0, 10)
    assert value is None or 0 <= value <= 10
    assert isinstance(verdict_json(text), dict | None)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Yes", True),
        ("Yes it is right", True),
        ("No, the sum is wrong.", False),
        ("**Verdict**: No", False),
        ("The verdict is: correct", True),
        ("Is the solution correct? No", False),
        ("Verdict: no\nOn reflection.\nFinal verdict: yes", True),
        ("Long text.\n\nNo.", False),
        ('{"reason": "x", "verdict": "yes"}', True),
        ('Here: {"correct": false}', False),
        ("<think>Verdict: no</think>Verdict: yes", True),
        ("No errors found. Verdict: correct", True),
        ("No errors found.", None),
        ("Correct answers are rare", None),
        ("Yes\n\nNo", None),
        ("Verdict: yes\nVerdict: no", None),
        ("Verdict: yes or no", None),
        ("The answer is not correct", None),
        ('{"verdict": "yes", "correct": false}', None),
        ('{"verdict": "perhaps"}', None),
        ("maybe", None),
        ("", None),
    ],
)
def test_a_verdict_is_read_only_when_it_is_clear(text: str, verdict: bool | None) -> None:
    assert yes_no(text) is verdict


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7/10", 7),
        ("Score: 7", 7),
        ("**Score:** 8/10", 8),
        ("Score (1-10): 7.5", 7.5),
        ("Rating: [[6]]", 6),
        ("I give it 8 out of 10.", 8),
        ("Score: 7. So 7/10.", 7),
        ("7", 7),
        ('{"score": 7}', 7),
        ('{"score": "7"}', 7),
        ("Score: 7\nScore: 8", None),
        ("Score: 7, or 8/10", None),
        ("Score: 3/5", None),
        ("Score: 11", None),
        ("Score: 0", None),
        ("Score: 1-10", None),
        ("Score: 70%", None),
        ('{"score": true}', None),
        ('{"score": NaN}', None),
        ('{"score": 7, "rating": 8}', None),
        ("2024/10/7", None),
        ("seven", None),
        ("", None),
    ],
)
def test_a_score_is_read_only_when_there_is_one_on_the_right_scale(text: str, value: float | None) -> None:
    assert score(text, 1, 10) == value


def test_scores_may_be_negative_and_their_bounds_belong_to_the_range() -> None:
    assert score("Score: -40", -100, 100) == -40
    assert score("Score: \u2212100", -100, 100) == -100
    assert score("Score: 1", 1, 10) == 1


def test_a_judges_json_is_the_last_object_of_its_text() -> None:
    assert verdict_json('First {"a": 1}, then ```json\n{"b": {"c": 2}}\n```') == {"b": {"c": 2}}
    assert verdict_json('<think>{"a": 1}</think> none') is None
    assert verdict_json("[1]") is None
    assert verdict_json("{" * 100_000) is None
