import anyio
import pytest

from strop.server.scoring import checks
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.ops import Verify
from strop.strategies.kit.types import Chat, Draft


def verdicts(verifier, texts, **spec):
    async def check():
        return await verifier(Verify(Chat(), tuple(map(Draft, texts)), verifier.__name__, spec))

    return anyio.run(check).verdicts


def test_a_pattern_is_searched_for_or_must_match_the_whole_text():
    texts = ["a1", "1", "b"]
    assert [v.ok for v in verdicts(checks.regex, texts, pattern=r"\d")] == [True, True, False]
    assert [v.ok for v in verdicts(checks.regex, texts, pattern=r"\d", whole=True)] == [False, True, False]


@pytest.mark.parametrize(
    "spec",
    [{}, {"pattern": ""}, {"pattern": 3}, {"pattern": "("}, {"pattern": "a" * 3000}, {"pattern": "a", "whole": 1}],
)
def test_a_pattern_that_cannot_be_used_is_the_clients_fault(spec):
    with pytest.raises(BadRequest) as refused:
        verdicts(checks.regex, ["a"], **spec)
    assert refused.value.param == "strop.spec"


async def test_a_catastrophic_pattern_gives_no_verdict_in_time_and_the_event_loop_goes_on(monkeypatch):
    monkeypatch.setattr(checks, "MOST_SECONDS", 1.0)
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            await anyio.sleep(0.05)
            ticks += 1

    async with anyio.create_task_group() as group:
        group.start_soon(tick)
        with anyio.fail_after(20):
            op = Verify(Chat(), (Draft("a" * 64 + "!"),), "regex", {"pattern": "^(a+)+$"})
            verified = await checks.regex(op)
        group.cancel_scope.cancel()
    assert verified.verdicts[0].ok is None
    assert ticks > 5


def test_equal_answers_pass_however_they_are_written():
    texts = [r"So \boxed{\frac{1}{2}}.", "The answer is 0.5.", r"\boxed{0.6}"]
    assert [v.ok for v in verdicts(checks.math_equal, texts, expected="1/2")] == [True, True, False]


def test_an_answer_without_a_result_gives_no_verdict_and_a_wrong_one_does_not_tell_the_right_one():
    [none, wrong] = verdicts(checks.math_equal, ["I thought\nabout it\nfor long.", r"\boxed{41}"], expected="42")
    assert none.ok is None
    assert wrong.ok is False
    assert "41" in wrong.evidence
    assert "42" not in wrong.evidence
