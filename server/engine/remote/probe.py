"""Asking an upstream what it is and what it can do: free questions always, one-token generations when allowed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from strop.server.engine.base import ModelInfo
from strop.server.engine.remote.dialect import Dialect, Family, Found, assumed, described, offered
from strop.server.engine.remote.failures import Misconfigured, Refused, Unreached
from strop.server.engine.remote.link import Link
from strop.strategies.kit.capabilities import Capability
from strop.strategies.kit.errors import BadRequest, EngineError, EngineUnavailable, StropError

_MOST = 128  # drafts in one request that OpenAI allows
_HELLO: Mapping[str, Any] = {"messages": [{"role": "user", "content": "Hello"}]}
_TOOL: Mapping[str, Any] = {
    "type": "function",
    "function": {"name": "noop", "description": "Does nothing.", "parameters": {"type": "object", "properties": {}}},
}


async def discover(link: Link, wanted: str | None, *, generate: bool) -> Found:
    """Model, dialect and capabilities of the server behind `link`. `generate` allows one-token generations."""
    listed = await _models(link, wanted)
    family = _family(listed)
    model = _info(listed, wanted)
    asked = _Asked(link, model.name, assumed(family), {})
    if generate:
        await asked.about_streams()
        await asked.about_tokens()
        await asked.about_choices()
        await asked.about_tools()
    return Found(model, asked.dialect, described(offered(asked.dialect) - frozenset(asked.lacks), asked.lacks))


async def _models(link: Link, wanted: str | None) -> list[Mapping[str, Any]]:
    """Entries of /v1/models; an upstream without that list must be told the model's name."""
    try:
        answer = await link.get("/v1/models")
    except EngineUnavailable as failure:
        if wanted is None or isinstance(failure, Unreached | Misconfigured):
            raise
        return []
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, list):
        raise EngineError("the upstream's /v1/models is not a list of models")
    return [entry for entry in data if isinstance(entry, dict) and isinstance(entry.get("id"), str)]


def _family(listed: list[Mapping[str, Any]]) -> Family:
    owners = {str(entry.get("owned_by")) for entry in listed}
    return "vllm" if "vllm" in owners else "strop" if "strop" in owners else "openai"


def _info(listed: list[Mapping[str, Any]], wanted: str | None) -> ModelInfo:
    names = [str(entry["id"]) for entry in listed]
    family = _family(listed)
    if wanted is None and len(names) != 1 and (family == "openai" or not names):
        raise Misconfigured(f"the upstream lists {len(names)} models; say which one to use")
    if wanted is not None and family != "openai" and wanted not in names:
        raise Misconfigured(f"the upstream does not serve '{wanted}', but {', '.join(names[:8])}")
    name = wanted or names[0]
    entry: Mapping[str, Any] = next((e for e in listed if e["id"] == name), {})
    context, created = entry.get("max_model_len"), entry.get("created")
    return ModelInfo(
        name,
        context if isinstance(context, int) else None,
        created if isinstance(created, int) else 0,
        str(entry.get("owned_by") or "upstream"),
    )


@dataclass
class _Asked:
    """An interview: `dialect` and `lacks` (capability to reason) change with every answer."""

    link: Link
    model: str
    dialect: Dialect
    lacks: dict[Capability, str] = field(default_factory=dict)

    async def about_streams(self) -> None:
        """Does it stream with usage, with running usage, with token ids, with logprobs?"""
        chunks = await self._stream({"logprobs": True, "top_logprobs": 1, "return_token_ids": True})
        if chunks is None:
            for capability in (Capability.LOGPROBS, Capability.TOP_LOGPROBS):
                self.lacks[capability] = "the upstream refused logprobs"
            chunks = await self._stream({}) or []
        elif not any(choice.get("logprobs") for choice in _choices(chunks)):
            for capability in (Capability.LOGPROBS, Capability.TOP_LOGPROBS):
                self.lacks[capability] = "the upstream left logprobs out"
        self.dialect = replace(
            self.dialect,
            usage=any(chunk.get("usage") for chunk in chunks),
            running_usage=self.dialect.running_usage and any(c.get("usage") and c.get("choices") for c in chunks),
            token_ids=any(choice.get("token_ids") for choice in _choices(chunks)),
        )

    async def _stream(self, more: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
        """Chunks of a one-token chat; None when it is refused even in its other forms."""
        options: dict[str, Any] = {"include_usage": True}
        if self.dialect.running_usage:
            options["continuous_usage_stats"] = True
        if self.dialect.family == "openai":
            more = {name: value for name, value in more.items() if name != "return_token_ids"}
        for length in dict.fromkeys((self.dialect.length, "max_tokens", "max_completion_tokens")):
            for extra in ({"stream_options": options}, {}):
                body = {"model": self.model, **_HELLO, "stream": True, length: 1, **extra, **more}
                chunks: list[Mapping[str, Any]] = []
                try:
                    await self.link.stream("/v1/chat/completions", body, _free, chunks.append)
                except BadRequest:
                    continue
                self.dialect = replace(
                    self.dialect, length="max_tokens" if length == "max_tokens" else "max_completion_tokens"
                )
                return chunks
        return None

    async def about_tokens(self) -> None:
        """Does it complete raw prompts, tokenize, take token ids, and report logprobs of a prompt?"""
        if await self._ask("/v1/completions", {"prompt": "Hello", "max_tokens": 1}) is None:
            self.lacks[Capability.RAW_PROMPT] = "the upstream refused a raw prompt at /v1/completions"
        if not self.dialect.tokenize:
            return
        answer = await self._ask("/tokenize", {"prompt": "Hello"})
        ids = answer.get("tokens") if answer else None
        if not isinstance(ids, list) or not ids:
            self.dialect = replace(self.dialect, tokenize=False)
            self.lacks[Capability.SCORE_TEXT] = "the upstream has no /tokenize"
            return
        scored = await self._ask("/v1/completions", {"prompt": ids * 2, "max_tokens": 1, "prompt_logprobs": 0})
        if not scored or not any(choice.get("prompt_logprobs") for choice in _choices([scored])):
            self.lacks[Capability.SCORE_TEXT] = "the upstream refused prompt_logprobs"

    async def about_choices(self) -> None:
        """Does it give several drafts in one answer?"""
        if self.dialect.family != "openai":
            return
        answer = await self._ask("/v1/chat/completions", {**_HELLO, self.dialect.length: 1, "n": 2})
        self.dialect = replace(self.dialect, n=_MOST if answer and len(answer.get("choices") or ()) == 2 else 1)

    async def about_tools(self) -> None:
        """Does it take tools? vLLM does only when it was started with a tool parser."""
        body = {**_HELLO, self.dialect.length: 1, "tools": [_TOOL], "tool_choice": "auto"}
        if await self._ask("/v1/chat/completions", body) is None:
            self.lacks[Capability.TOOLS] = "the upstream refused a request with tools"
            if self.dialect.family != "vllm":
                self.lacks[Capability.FORCED_TOOLS] = self.lacks[Capability.TOOLS]

    async def _ask(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The answer, or None when the upstream refuses; being down or full is not an answer."""
        try:
            answer = await self.link.post(path, {"model": self.model, **body})
        except (Unreached, Refused):
            raise
        except StropError:
            return None
        return answer if isinstance(answer, dict) else None


def _choices(chunks: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [choice for chunk in chunks for choice in chunk.get("choices") or () if isinstance(choice, dict)]


def _free() -> None:
    """Probes are not billed to any request."""
