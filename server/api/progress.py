"""Progress for people and for programs. Counts and scores only: never a word of a draft, a critique or a verdict."""

from __future__ import annotations

from typing import Any

from strop.server.api.wire.strop import wire_usage
from strop.strategies.kit.events import Event, Kept, Noted, OpDone, OpStarted, Started
from strop.strategies.kit.ops import Generate, Logprobs, Score, Steps, Verify


class Progress:
    """Short lines such as "draft 3 of 8", "critique", "kept a draft with score 0.9"."""

    def __init__(self) -> None:
        self._asked: dict[str, int] = {}
        self._done: dict[str, int] = {}
        self._last: str | None = None

    def line(self, event: Event) -> str | None:
        """What to tell about an event; None for events not worth a line, and for what was just said."""
        said, self._last = self._last, self._told(event) or self._last
        return self._last if self._last != said else None

    def _told(self, event: Event) -> str | None:
        match event:
            case OpStarted(op=Generate() as op):
                self._asked[op.tag] = self._asked.get(op.tag, 0) + op.n
                return f"{op.tag}: {op.n} at once" if op.n > 1 else None
            case OpDone(error=None):
                return self._finished(event)
            case OpDone(error=str() as error) if error != "cancelled":
                return f"{event.op.tag} failed"
            case Kept(score=score):
                return "kept a draft" if score is None else f"kept a draft with score {score:.3g}"
            case _:
                return None

    def _finished(self, event: OpDone) -> str | None:
        match event.op:
            case Generate(n=n, tag=tag):
                self._done[tag] = done = self._done.get(tag, 0) + n
                asked = self._asked.get(tag, done)
                return f"{tag} {done} of {asked}" if asked > 1 else tag
            case Score(drafts=drafts, by=by):
                return f"{by} scored {len(drafts)} drafts"
            case Steps(by=by):
                return f"{by} scored the steps of a draft"
            case Logprobs(drafts=drafts):
                return f"weighed {len(drafts)} drafts"
            case Verify(drafts=drafts, by=by):
                return f"{by} checked {len(drafts)} drafts"


def machine(event: Event) -> dict[str, Any] | None:
    """An event for programs: what happened, where in the strategy's program, and what it cost."""
    match event:
        case Started(strategy=strategy, knobs=knobs):
            return {"event": "started", "strategy": strategy, "knobs": knobs}
        case OpStarted(key=key, op=op):
            return {"event": "op_started", "key": key, "op": op.kind, "tag": op.tag, "n": getattr(op, "n", 1)}
        case OpDone(key=key, op=op):
            return {
                "event": "op_done",
                "key": key,
                "op": op.kind,
                "tag": op.tag,
                "ok": event.error is None,
                "at": round(event.at, 6),
                "seconds": round(event.seconds, 6),
                "usage": wire_usage(event.usage),
            }
        case Kept(key=key, score=score):
            return {"event": "kept", "key": key, "score": score}
        case Noted(key=key):
            return {"event": "noted", "key": key}
        case _:
            return None
