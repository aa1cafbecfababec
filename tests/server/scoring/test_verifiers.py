import anyio
import pytest

from strop.server.scoring import verifiers
from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.ops import Verify
from strop.strategies.kit.types import Chat, Draft

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}


def check(texts, schema):
    op = Verify(Chat(), tuple(map(Draft, texts)), "json_schema", {"schema": schema})
    return [verdict.ok for verdict in anyio.run(verifiers.json_schema, op).verdicts]


def test_only_text_that_satisfies_the_schema_passes():
    assert check(['{"a": 1}', '{"a": "1"}', '{"a": 1, "b": 2}', "a: 1", "", "NaN"], SCHEMA) == [True] + [False] * 5


def test_a_fenced_or_chatty_answer_is_not_json():
    assert check(['```json\n{"a": 1}\n```', 'Sure: {"a": 1}'], SCHEMA) == [False, False]


def test_json_object_refuses_arrays_and_scalars():
    op = Verify(Chat(), (Draft("{}"), Draft("[1]"), Draft("3"), Draft("{")), "json_object")
    assert [v.ok for v in anyio.run(verifiers.json_object, op).verdicts] == [True, False, False, False]


@pytest.mark.parametrize(
    "schema", [{"type": "nonsense"}, {"$ref": "http://127.0.0.1/x"}, {"properties": 3}, {"$ref": "#/$defs/none"}]
)
def test_a_schema_that_cannot_be_checked_is_the_clients_fault(schema):
    with pytest.raises(BadRequest) as refused:
        check(["{}"], schema)
    assert refused.value.param == "response_format"


def test_a_schema_that_refers_to_itself_without_end_gives_no_verdict():
    assert check(["{}"], {"$ref": "#"}) == [None]


async def test_a_catastrophic_pattern_ends_in_time_without_stopping_the_event_loop(monkeypatch):
    monkeypatch.setattr(verifiers, "MOST_SECONDS", 1.0)
    schema = {"type": "string", "pattern": "^(a+)+$"}
    op = Verify(Chat(), (Draft('"' + "a" * 64 + '!"'),), "json_schema", {"schema": schema})
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            await anyio.sleep(0.05)
            ticks += 1

    async with anyio.create_task_group() as group:
        group.start_soon(tick)
        with anyio.fail_after(20):
            verified = await verifiers.json_schema(op)
        group.cancel_scope.cancel()
    assert verified.verdicts[0].ok is None
    assert ticks > 5
