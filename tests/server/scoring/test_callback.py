from __future__ import annotations

import json

import httpx
import pytest

from strop.server.scoring.callback import MOST_BYTES, Callback, within
from strop.strategies.kit.errors import BadRequest, MissingCapability
from strop.strategies.kit.ops import Verify
from strop.strategies.kit.types import Chat, Draft, Message

ALLOWED = ("https://checks.example.com/v1/",)
QUESTION = Chat((Message("user", "1+1?"),))


async def ask(answer, url="https://checks.example.com/v1/sums", allowed=ALLOWED):
    """Verdicts on two drafts, and the requests that were sent."""
    seen: list[httpx.Request] = []

    def handle(request):
        seen.append(request)
        if isinstance(answer, Exception):
            raise answer
        return answer

    op = Verify(QUESTION, (Draft("2"), Draft("3")), "callback", {"url": url})
    verified = await Callback(allowed, transport=httpx.MockTransport(handle))(op)
    return verified.verdicts, seen


async def test_the_service_is_told_question_and_answers_and_its_verdicts_are_used():
    said = {"verdicts": [{"ok": True}, {"ok": False, "evidence": "not 2"}]}
    verdicts, [sent] = await ask(httpx.Response(200, json=said))
    assert [v.ok for v in verdicts] == [True, False]
    assert verdicts[1].evidence == "not 2"
    assert json.loads(sent.content) == {"question": "1+1?", "answers": ["2", "3"]}


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(500, json={"verdicts": [{"ok": True}, {"ok": True}]}),
        httpx.Response(302, headers={"location": "http://127.0.0.1/"}),
        httpx.Response(200, text="yes"),
        httpx.Response(200, json={"verdicts": [{"ok": True}]}),
        httpx.Response(200, json={"verdicts": [{"ok": "true"}, {"ok": 1}]}),
        httpx.Response(200, content=b" " * (MOST_BYTES + 1)),
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
    ],
)
async def test_anything_but_a_proper_reply_is_no_verdict_and_no_second_request(answer):
    verdicts, seen = await ask(answer)
    assert [v.ok for v in verdicts] == [None, None]
    assert len(seen) == 1


async def test_callbacks_are_off_unless_the_operator_lists_addresses():
    with pytest.raises(MissingCapability, match=r"set verifiers\.callbacks"):
        await ask(httpx.Response(200), allowed=())


@pytest.mark.parametrize(
    "url",
    [
        "http://checks.example.com/v1/sums",
        "https://checks.example.com:8443/v1/sums",
        "https://checks.example.com.evil.org/v1/sums",
        "https://user@checks.example.com/v1/sums",
        "https://checks.example.com@evil.org/v1/",
        "https://checks.example.com/v2",
        "https://checks.example.com/v1evil",
        "https://checks.example.com/v1/../admin",
        "https://checks.example.com/v1/%2e%2e/admin",
        "https://checks.example.com/v1/%252e%252e/admin",
        "https://checks.example.com\\@evil.org/v1/",
        "https://[::1/v1/",
        "https://checks.example.com:port/v1/",
        "file:///etc/passwd",
        "checks.example.com/v1/sums",
    ],
)
async def test_other_addresses_are_refused_before_anything_is_sent(url):
    with pytest.raises(BadRequest, match="does not allow"):
        await ask(httpx.Response(200), url)


def test_the_allowed_address_itself_and_what_lies_below_it_are_allowed():
    assert within("https://checks.example.com/v1", ALLOWED[0])
    assert within("https://checks.example.com:443/v1/a/b?c=d", ALLOWED[0])
    assert within("http://localhost:9000/any", "http://localhost:9000")
