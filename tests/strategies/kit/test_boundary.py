"""Where an unfinished answer may be cut back, and when it must not be interrupted."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strop.strategies.kit.boundary import last_boundary, last_token_boundary, safe_to_interrupt
from strop.strategies.kit.steps import fences, inside

TOKENS = st.lists(
    st.sampled_from(
        ["One", " two", ".", ".\n\n", "\n", "\n\n", " ", "!", "```\n", "e.g.", "```", '"', "{", "}", "", "é"]
    ),
    max_size=25,
)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("One. Two.\n\nThree. Fo", "One. Two.\n\n"),
        ("One is 5. Two is", "One is 5."),
        ('He said "stop." And', 'He said "stop."'),
        ("First. Then\n\n   indented", "First. Then\n\n"),
        ("Done.", "Done."),
        ("One! Two e.g. this", "One!"),
        ("Yes? 3.14 and Dr. Who", "Yes?"),
        ("a.\n\n```\nx.\n\ny", "a.\n\n"),
        ("a\n\n```\nx\n```\n\nb", "a\n\n```\nx\n```\n\n"),
    ],
)
def test_a_text_is_cut_at_its_last_paragraph_or_else_its_last_sentence(text: str, kept: str) -> None:
    assert last_boundary(text) == len(kept)


@pytest.mark.parametrize("text", ["", "no end", "1. first item", "A. option", "```\nx.\n\ny", "\n\n"[:1], "3.14"])
def test_a_text_without_a_boundary_is_not_cut(text: str) -> None:
    assert last_boundary(text) is None


def test_a_boundary_too_far_back_does_not_count() -> None:
    text = "Para.\n\nSentence. " + "x" * 50
    assert last_boundary(text, within=200) == 7
    assert last_boundary(text, within=55) == len("Para.\n\nSentence.")
    assert last_boundary(text, within=20) is None


def test_tokens_are_cut_where_a_token_ends() -> None:
    assert last_token_boundary(["One", ".", "\n\n", "Two", " is", ".", " Th"]) == 3
    assert last_token_boundary(["One", ".", "\n", "\n", "Two"]) == 4
    assert last_token_boundary(["One", ".", "\n\nTwo", " is", " x"]) == 2
    assert last_token_boundary(["One", ".\n\nTwo", " is"]) is None
    assert last_token_boundary([]) is None


def test_tokens_too_far_back_do_not_count() -> None:
    tokens = ["One", ".", " and", " more", " words"]
    assert last_token_boundary(tokens, within=3) == 2
    assert last_token_boundary(tokens, within=2) is None


def test_a_negative_reach_is_an_error() -> None:
    with pytest.raises(ValueError, match="within"):
        last_boundary("a", within=-1)
    with pytest.raises(ValueError, match="within"):
        last_token_boundary(["a"], within=-1)


@given(TOKENS, st.integers(0, 30))
@settings(deadline=None)
def test_a_cut_never_lies_outside_its_reach_nor_in_a_code_block(tokens: list[str], within: int) -> None:
    text = "".join(tokens)
    place, count = last_boundary(text, within), last_token_boundary(tokens, within)
    blocks = fences(text)
    if place is not None:
        assert max(1, len(text) - within) <= place <= len(text)
        assert not inside(place, blocks)
    if count is not None:
        assert max(0, len(tokens) - within) <= count <= len(tokens)
        assert not inside(len("".join(tokens[:count])), blocks)


@given(TOKENS)
@settings(deadline=None)
def test_with_single_characters_both_cuts_agree(tokens: list[str]) -> None:
    text = "".join(tokens)
    assert last_token_boundary(list(text), len(text)) == last_boundary(text, len(text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "So far so good",
        "```py\nx\n```\nthen",
        'It printed {"a": 1} and',
        '{"a": "}"}',
        "<think>maybe \\boxed{3}, but",
        "the final answer will be",
        r"the set \{1, 2",
        "[Note] this",
        "f(x) = {x if",
    ],
)
def test_an_answer_under_way_may_be_interrupted(text: str) -> None:
    assert safe_to_interrupt(text)


@pytest.mark.parametrize(
    "text",
    [
        "```py\nx = 1\n",
        "a\n\n~~~\n\nb\n\n",
        '{"a": 1, ',
        '{"a": "}',
        '[{"a": 1}, ',
        'Calling with {"city": "Par',
        "<tool_call>\n",
        '<tool_call>{"name": "f"}</tool_call>',
        "<function=search>",
        "[TOOL_CALLS] [",
        "<|python_tag|>f(",
        "<think>hm</think>",
        "<think>hm</think>\n\nThe result is",
        "reasoning that began in the prompt</think> so",
        "so \\boxed{3} it is",
        "so \\boxed{3",
        "Final answer: 5",
        "**Final Answer**\n\n5",
        "the final answer is 5. Well",
        "sum\n#### 5",
    ],
)
def test_code_calls_json_and_given_answers_are_left_alone(text: str) -> None:
    assert not safe_to_interrupt(text)


@given(st.text(max_size=80) | TOKENS.map("".join))
@settings(deadline=None)
def test_any_text_has_a_reply(text: str) -> None:
    assert safe_to_interrupt(text) in (True, False)
