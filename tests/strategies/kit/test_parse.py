"""Answers read from text; the unreadable is None."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strop.strategies.kit.parse import Answer, Kind, canonical_call, extract, score, yes_no
from strop.strategies.kit.reasoning import answer_part

KINDS: list[Kind] = ["auto", "boxed", "stated", "number", "choice", "json", "line"]
PIECES = (
    *(
        "\\boxed{",
        "{",
        "}",
        "\\{",
        "\\frac",
        "Final answer:",
        "answer is",
        "####",
        "(A)",
        "B.",
        "1,234",
        "-3/4",
        "%",
        "$",
    ),
    *(
        "**",
        "```json\n",
        "```",
        "\n",
        " ",
        '"a"',
        ":",
        "1.0",
        "[",
        "]",
        "<think>",
        "</think>",
        "NaN",
        "Score: 7",
        "7/10",
    ),
    *("yes", "no", "."),
)
TEXTS = st.text(max_size=60) | st.lists(st.sampled_from(PIECES), max_size=15).map("".join)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=8
)


def canonical(text: str, kind: Kind = "auto") -> str | None:
    found = extract(text, kind)
    return found and found.canonical


@given(TEXTS, st.sampled_from(KINDS))
@settings(deadline=None, max_examples=300)
def test_any_text_has_an_answer_or_none_but_never_an_empty_one(text: str, kind: Kind) -> None:
    found = extract(text, kind)
    assert found is None or (found.raw.strip() and found.canonical.strip())


@given(TEXTS, st.sampled_from(KINDS))
@settings(deadline=None)
def test_reasoning_never_gives_the_answer(text: str, kind: Kind) -> None:
    assert extract(f"<think>{text.replace('</think>', '')}", kind) is None
    assert extract(f"\\boxed{{1}} answer: 2 {{}}\n</think>{text}", kind) == extract(text, kind) or "</think>" in text


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>a</think>b", "b"),
        ("a<think>b</think>c<THINKING>d</thinking>e", "ace"),
        ("began in the prompt</think>b", "b"),
        ("a<think>never closed", "a"),
        ("<think>a <think> b</think> c</think>d", "d"),
        ("plain", "plain"),
    ],
)
def test_the_answer_part_is_what_stands_outside_the_reasoning(text: str, answer: str) -> None:
    assert answer_part(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{12} or rather \boxed{\frac{3}{4}}.", "0.75"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{4} and again \boxed{5", "4"),
        (r"\boxed{4} and \boxed{}", "4"),
        (r"$\boxed{\text{Yes}}$", "yes"),
        (r"\boxed{(B)}", "B"),
        (r"\fbox {1,000}", "1000"),
        (r"\boxed{5", None),
        (r"\boxed{ }", None),
        ("no box", None),
    ],
)
def test_the_last_complete_box_wins_and_braces_nest(text: str, answer: str | None) -> None:
    assert canonical(text, "boxed") == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 42.", "42"),
        ("First, answer: 3. Later the answer is 4", "4"),
        ("**Final Answer:** $\\frac{1}{2}$", "0.5"),
        ("**Final Answer**: **x + 1**", "x + 1"),
        ("## Final Answer\n\n\\[\nx+1\n\\]\n", "x+1"),
        ("Final answer (in metres): 7", "7"),
        ("#### 1,234", "1234"),
        ("The answer to 5 + 5 is 10.", "10"),
        ("The answer is 3.14. It is pi.", "3.14"),
        ("The answer is Ulysses S. Grant. He won.", "Ulysses S. Grant"),
        ("The answer is Paris because it is", "paris"),
        ("The final answer is $5.50", "5.5 $"),
        ("So the answer is not 5", None),
        ("The answer is correct.", None),
        ("answer:", None),
        ("nothing is said", None),
    ],
)
def test_the_last_stated_answer_wins_without_what_follows_it(text: str, answer: str | None) -> None:
    assert canonical(text, "stated") == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("the total is -1,234.50 dollars", "-1234.5"),
        ("x = 5-3", "3"),
        (r"\boxed{\frac{3}{4}} of 100", "0.75"),
        ("The answer is 5 + 3 = 8", "8"),
        ("Answer: 42 apples, because 3", "42"),
        ("He pays $1,000.", "1000"),
        ("about 50%", "50"),
        ("3/4 of it", "0.75"),
        ("1.5e3", "1500"),
        ("from 2 to \u22127", "-7"),
        ("none", None),
        ("version v2", None),
    ],
)
def test_the_last_number_is_the_last_resort_of_the_kind_number(text: str, answer: str | None) -> None:
    assert canonical(text, "number") == answer


def test_other_kinds_never_fall_back_to_the_last_number() -> None:
    text = "First there were 5.\nThen 7."
    assert [canonical(text, kind) for kind in ("auto", "boxed", "stated", "choice", "json")] == [None] * 5


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("The answer is B", "B"),
        ("The answer is (b).", "B"),
        ("Answer: **C**", "C"),
        ("The correct answer is option D, since", "D"),
        (r"\boxed{\text{E}}", "E"),
        ("The answer is A because x", "A"),
        ("A.", "A"),
        ("(A) is wrong\nso\n**B**", "B"),
        ("(A) no\n(C) yes", "C"),
        ("C) the third", "C"),
        ("so option (D) fits", "D"),
        ("The answer is A dog", None),
        ("The answer is a dog", None),
        ("A man walks into a bar.", None),
        ("I think so", None),
        ("Answer: A and B", None),
        ("The answer is Berlin", None),
    ],
)
def test_a_choice_is_a_letter_and_not_an_article(text: str, letter: str | None) -> None:
    assert canonical(text, "choice") == letter


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('{"b": 1.0, "a": [2.50, "é"]}', '{"a":[2.5,"\\u00e9"],"b":1}'),
        ('```json\n{"a": 0}\n```\nthen\n```\n{"a": 1}\n```\nDone.', '{"a":1}'),
        ("[]", "[]"),
        ('```python\n{"a": 1}\n```', None),
        ('```json\n{"a": 1}\n```\n```json\n{"a": \n```', None),
        ('```json\n{"a": 1}', None),
        ('{"a": 1, "a": 2}', None),
        ('{"a": NaN}', None),
        ('{"a": Infinity}', None),
        ('{"a": 1e999}', None),
        ('{"a": 1} trailing', None),
        ("[" * 100_000 + "]" * 100_000, None),
        ("5", None),
    ],
)
def test_json_is_the_whole_text_or_its_last_code_block(text: str, answer: str | None) -> None:
    assert canonical(text, "json") == answer


def test_auto_prefers_the_box_then_the_statement_then_json_then_a_short_line() -> None:
    found = [extract(text) for text in ("answer: 3\n\\boxed{4}", "The answer is 3", '{"a": 1}', "Paris.", "two\nlines")]
    assert [answer and (answer.kind, answer.canonical) for answer in found] == [
        ("boxed", "4"),
        ("stated", "3"),
        ("json", '{"a":1}'),
        ("line", "paris"),
        None,
    ]
    assert extract("x" * 81) is None
    assert extract(r"\boxed{cut of") is None
    assert extract('{"a": 1, "a": 2}') is None


def test_the_final_line_is_the_last_that_says_something() -> None:
    assert extract("one\n**Two** \n\n", "line") == Answer("line", "**Two**", "two")
    assert extract(" \n", "line") is None


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_text_is_read_in_short_time(kind: Kind) -> None:
    began = time.perf_counter()
    pieces = (
        "\\boxed{",
        "answer",
        "Answer:\nnot\n",
        "{",
        '{"a":',
        "[",
        "1,",
        "(A",
        "`",
        "<think>",
        "Score (",
        "\\text{",
    )
    texts = [piece * (20_000 // len(piece)) for piece in pieces]
    for text in [*texts, *(f"{label}{gap * 20_000}x" for label in ("answer is", "Score:", "") for gap in " *\n-")]:
        extract(text, kind)
        score(text, 0, 1)
        yes_no(text)
    assert time.perf_counter() - began < 5


def test_equal_tool_calls_have_one_spelling() -> None:
    assert (
        canonical_call("f", '{"b": 1.0, "a": [1]}') == canonical_call("f", ' {"a":[1.0],"b":1}') == 'f({"a":[1],"b":1})'
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [('{"a": 1}', '{"a": true}'), ('{"a": 1}', '{"a": "1"}'), ('{"a": 1}', '{"a": 2}'), ("{}", '{"a": null}')],
)
def test_different_tool_calls_differ(one: str, other: str) -> None:
    assert canonical_call("f", one) != canonical_call("f", other)
    assert canonical_call("f", one) != canonical_call("g", one)


@pytest.mark.parametrize("arguments", ["", "{", "[1]", "5", '{"a": 1, "a": 1}', '{"a": NaN}', "[" * 100_000])
def test_a_tool_call_with_invalid_arguments_has_no_spelling(arguments: str) -> None:
    assert canonical_call("f", arguments) is None


def test_a_tool_call_needs_a_name() -> None:
    assert canonical_call("", "{}") is None


@given(VALUES)
@settings(deadline=None)
def test_the_canonical_form_of_json_is_stable_and_says_the_same(value: object) -> None:
    text = canonical_call("f", json.dumps({"x": value}))
    assert text is not None
    again = text.removeprefix("f(").removesuffix(")")
    assert canonical_call("f", again) == text
    assert json.loads(again) == {"x": value}
