"""The nouns."""

from __future__ import annotations

from strop.strategies.kit import Chat, Draft, Message, Sampling, Tokens, Tool, ToolCall


def test_the_question_is_the_last_user_turn_or_the_raw_prompt() -> None:
    turns = (Message("user", "first"), Message("assistant", "a"), Message("user", "second"), Message("tool", "t"))
    assert Chat(turns).question == "second"
    assert Chat((), prompt="raw").question == "raw"
    assert Chat(()).question == ""


def test_a_transcript_shows_calls_and_roles_unless_there_is_one_turn_only() -> None:
    assert Chat((Message("user", "hi"),)).transcript() == "hi"
    chat = Chat((Message("user", "hi"), Message("assistant", "", (ToolCall("1", "f", '{"a":1}'),))))
    assert chat.transcript() == 'user: hi\n\nassistant: calls f({"a":1})'


def test_a_chat_followed_by_a_prompt_keeps_the_clients_rules_and_takes_the_prompts_tag() -> None:
    question = Chat((Message("user", "q"),), Sampling(max_tokens=9), (Tool("f"),))
    prompt = Chat((Message("user", "improve"),), Sampling(temperature=0.0), tag="revise", answers=False)
    revision = question.followed_by(prompt)
    assert [m.content for m in revision.messages] == ["q", "improve"]
    assert (revision.sampling, revision.tools) == (Sampling(max_tokens=9), (Tool("f"),))
    assert (revision.tag, revision.answers) == ("revise", True)


def test_none_leaves_a_sampling_field_alone() -> None:
    chat = Chat(sampling=Sampling(temperature=0.5))
    assert chat.but(temperature=None) is chat
    assert chat.but(temperature=0.0, top_p=None).sampling == Sampling(temperature=0.0)


def test_cutting_a_draft_cuts_every_column_and_the_inserted_ranges() -> None:
    tokens = Tokens((1, 2, 3), ("a", " b", " c"), (-1.0, -2.0, -3.0))
    draft = Draft("a b c", "stop", (), tokens, 3, injected=((0, 1), (1, 3), (2, 3)))
    cut = draft.cut(2)
    assert (cut.text, cut.n_tokens, cut.finish) == ("a b", 2, "length")
    assert cut.tokens == Tokens((1, 2), ("a", " b"), (-1.0, -2.0))
    assert cut.injected == ((0, 1), (1, 2))


def test_numbers_of_a_draft_are_none_when_the_engine_reported_none() -> None:
    assert (Draft("x").logprob, Draft("x").mean_logprob, Draft("x").certainty) == (None, None, None)
    draft = Draft("x y", tokens=Tokens((1, 2), (), (-1.0, -3.0), (), (2.0, 4.0)))
    assert (draft.logprob, draft.mean_logprob, draft.certainty) == (-4.0, -2.0, 3.0)
