"""Pieces of text per token, and stop strings in a growing text."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the embedded engine needs torch")

from hypothesis import given, settings
from hypothesis import strategies as st

from strop.server.engine.chat.detokenize import Detokenizer, StopWatch
from tests.server.engine.transformers.tiny import make_tokenizer

TOKENIZER = make_tokenizer()


def pieces(ids: list[int], prompt: list[int] | None = None) -> list[str]:
    detokenizer = Detokenizer(TOKENIZER, prompt or [])
    found = [detokenizer.push(i) for i in ids]
    found[-1] += detokenizer.flush()
    return found


@pytest.mark.parametrize("text", ["the other", "né 😀 日本語", " the  the", "a\u0301"])
def test_pieces_join_to_the_text(text: str) -> None:
    assert "".join(pieces(TOKENIZER.encode(text))) == text


def test_a_character_comes_with_the_token_that_completes_it() -> None:
    assert pieces(TOKENIZER.encode("a😀b")) == ["a", "", "", "", "😀", "b"]


def test_an_unfinished_character_ends_as_a_replacement() -> None:
    assert pieces(TOKENIZER.encode("a😀")[:3]) == ["a", "", "\ufffd"]


def test_a_prompt_that_ends_inside_a_character_is_completed() -> None:
    ids = TOKENIZER.encode("a😀b")
    assert pieces(ids[3:], prompt=ids[:3]) == ["", "😀", "b"]


def test_special_tokens_have_no_text() -> None:
    assert pieces([TOKENIZER.eos_token_id, *TOKENIZER.encode("the")]) == ["", "the"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 260), min_size=1, max_size=24))
def test_any_bytes_give_the_text_of_the_whole(ids: list[int]) -> None:
    assert "".join(pieces(ids)).replace("\ufffd", "") == TOKENIZER.decode(ids).replace("\ufffd", "")


@settings(max_examples=100, deadline=None)
@given(st.text(min_size=1, max_size=20))
def test_any_text_survives(text: str) -> None:
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    assert "".join(pieces(ids)) == TOKENIZER.decode(ids)


def test_the_earliest_stop_string_wins_then_the_longest() -> None:
    watch = StopWatch(["bc", "abc", "ab"])
    found = watch.find("xabc", 4)
    assert found is not None
    assert (found.string, found.at) == ("abc", 1)


@settings(max_examples=200, deadline=None)
@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3), st.data())
def test_a_stop_is_found_as_soon_as_it_is_there_and_never_sent_before(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    """Grow the text piece by piece: what was cleared for sending never has to be taken back."""
    watch, at, cleared = StopWatch(stops), 0, 0
    while at < len(text):
        step = data.draw(st.integers(1, 3))
        at = min(len(text), at + step)
        grown = text[:at]
        found = watch.find(grown, step)
        want = min((p for s in stops if (p := grown.find(s)) >= 0), default=None)
        assert (found.at if found else None) == want
        if found:
            assert cleared <= found.at
            return
        cleared = at - watch.pending(grown)
