"""A model server with a fixed latency: every chat completion takes the same time, whatever is asked and how many ask.

python upstream.py PORT LATENCY_SECONDS
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import uvicorn

WORD = "Yes"
TOP = [{"token": WORD, "logprob": -0.1, "bytes": None}, {"token": "No", "logprob": -2.5, "bytes": None}]


def completion(asked: dict[str, Any]) -> dict[str, Any]:
    """An OpenAI response with `n` equal choices; label probabilities when asked for."""
    logprobs = {"content": [{**TOP[0], "top_logprobs": TOP}], "refusal": None} if asked.get("logprobs") else None
    choice = {
        "finish_reason": "stop",
        "logprobs": logprobs,
        "message": {"role": "assistant", "content": f"{WORD}, the answer is 7.", "refusal": None},
    }
    n = asked.get("n") or 1
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "fixed",
        "choices": [{"index": i, **choice} for i in range(n)],
        "usage": {"prompt_tokens": 10, "completion_tokens": 7 * n, "total_tokens": 10 + 7 * n},
    }


def chunks(asked: dict[str, Any]) -> list[dict[str, Any]]:
    """The same completion as a stream: role, text, finish, usage."""
    whole = completion(asked)
    head = {"id": whole["id"], "object": "chat.completion.chunk", "created": 1, "model": "fixed"}
    out = []
    for choice in whole["choices"]:
        for delta, finish, logprobs in (
            ({"role": "assistant", "content": ""}, None, None),
            ({"content": choice["message"]["content"]}, None, choice["logprobs"]),
            ({}, "stop", None),
        ):
            piece = {"index": choice["index"], "delta": delta, "finish_reason": finish, "logprobs": logprobs}
            out.append(head | {"choices": [piece]})
    if (asked.get("stream_options") or {}).get("include_usage"):
        out.append(head | {"choices": [], "usage": whole["usage"]})
    return out


def app(latency: float) -> Any:
    """The server as an ASGI application."""

    async def serve(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        kind, payload = b"application/json", b""
        if scope["path"].endswith("/models"):
            payload = json.dumps(
                {"object": "list", "data": [{"id": "fixed", "object": "model", "created": 1, "owned_by": "bench"}]}
            ).encode()
        elif scope["path"].endswith("/chat/completions"):
            asked = json.loads(body)
            await asyncio.sleep(latency)
            if asked.get("stream"):
                kind = b"text/event-stream"
                payload = "".join(f"data: {json.dumps(c)}\n\n" for c in chunks(asked)).encode() + b"data: [DONE]\n\n"
            else:
                payload = json.dumps(completion(asked)).encode()
        status = 200 if payload else 404
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(b"content-type", kind), (b"content-length", str(len(payload)).encode())],
            }
        )
        await send({"type": "http.response.body", "body": payload})

    return serve


if __name__ == "__main__":
    uvicorn.run(app(float(sys.argv[2])), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
