"""Replicas of one model: which one gets a request, and who takes over when it is down or full."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from hashlib import blake2b
from random import Random
from time import monotonic
from typing import TypeVar

import anyio

from strop.server.engine.base import Health
from strop.server.engine.remote.dialect import Dialect, Found, common
from strop.server.engine.remote.failures import Refused, Unreached
from strop.server.engine.remote.link import Link
from strop.strategies.kit.capabilities import Capabilities
from strop.strategies.kit.errors import EngineError, EngineUnavailable
from strop.strategies.kit.types import Chat

T = TypeVar("T")
log = logging.getLogger(__name__)

_ROOM = 8  # drafts in flight below which a replica is never crowded
_CROWDED = 1.5  # times the mean load at which a replica is crowded
_PAUSE = 0.05  # seconds; the first pause before a replica is tried again doubles with every round


@dataclass(eq=False, slots=True)
class Replica:
    """One upstream. `found` is None until it first answered; `load` counts drafts in flight.

    `hopeless` says that it answers but cannot be used until somebody changes a setting.
    """

    link: Link
    found: Found | None = None
    up: bool = False
    why: str = "not asked yet"
    hopeless: bool = False
    load: int = 0
    rests_until: float = 0.0

    def is_up(self) -> None:
        """It answered."""
        if not self.up:
            log.info("upstream %s is up", self.link.label)
        self.up, self.why, self.hopeless = True, "", False

    def is_down(self, why: str) -> None:
        """It did not; it is tried last until it answers again."""
        if self.up:
            log.warning("upstream %s is down: %s", self.link.label, why)
        self.up, self.why = False, why


class Pool:
    """All replicas. The same beginning of a conversation goes to the same replica, whose prefix cache knows it."""

    def __init__(self, replicas: list[Replica], retries: int) -> None:
        self.replicas = replicas
        self.capabilities = Capabilities(frozenset())
        self._retries = retries
        self._random = Random()

    @property
    def known(self) -> list[Replica]:
        """Those that have answered at least once."""
        return [replica for replica in self.replicas if replica.found is not None]

    @property
    def found(self) -> list[Found]:
        """What they said."""
        return [replica.found for replica in self.replicas if replica.found is not None]

    def met(self, replica: Replica, found: Found) -> None:
        """A replica has said what it is; what is offered is what all of them offer."""
        replica.found = found
        self.capabilities = common([f.capabilities for f in self.found])

    def health(self) -> Health:
        """Ready while one replica is up; `detail` names those that are not."""
        down = "; ".join(f"{r.link.label}: {r.why}" for r in self.replicas if not r.up)
        return Health(any(r.up and r.found for r in self.replicas), down)

    def order(self, key: str) -> list[Replica]:
        """Replicas for a key, best first: up before down, rested before resting, roomy before crowded, then by hash.

        The hash (rendezvous, also called highest random weight) moves only the keys of a replica that comes or goes.
        """
        known = self.known
        if not known:
            raise EngineUnavailable("no upstream has answered yet")
        now = monotonic()
        crowded = max(_ROOM, _CROWDED * sum(r.load for r in known) / len(known))

        def rank(replica: Replica) -> tuple[bool, bool, bool, int]:
            return (
                not replica.up,
                replica.rests_until > now,
                len(known) > 1 and replica.load >= crowded,
                -_weight(key, replica),
            )

        return sorted(known, key=rank)

    @property
    def dialect(self) -> Dialect:
        """What all replicas understand, as far as it decides how an op is put into calls."""
        own = [found.dialect for found in self.found]
        if not own:
            raise EngineUnavailable("no upstream has answered yet")
        return replace(
            own[0],
            n=min(d.n for d in own),
            tokenize=all(d.tokenize for d in own),
            continues=all(d.continues for d in own),
        )

    async def attempt(self, key: str, use: Callable[[Replica, Found], Awaitable[T]], drafts: int = 1) -> T:
        """`use` the best replica, or the next ones as long as nothing was begun: no connection, or no room.

        Replicas without room are asked once; those that cannot be reached again after a pause, up to the limit.
        """
        tried: list[Replica] = []
        failure: EngineError = EngineUnavailable("no upstream was tried")
        for attempt in range(len(self.known) + self._retries):
            order = self.order(key)
            fresh = [replica for replica in order if replica not in tried]
            if not fresh:
                if isinstance(failure, Refused):
                    break
                tried.clear()
                rounds = attempt // len(order)
                await anyio.sleep(_PAUSE * 2.0**rounds * self._random.uniform(0.5, 1.5))
            replica = (fresh or order)[0]
            tried.append(replica)
            try:
                return await self._use(replica, use, drafts)
            except Unreached as lost:
                replica.is_down(str(lost))
                failure = failure if isinstance(failure, Refused) else lost
            except Refused as full:
                replica.rests_until = monotonic() + full.retry_after
                failure = full
        raise failure

    async def _use(self, replica: Replica, use: Callable[[Replica, Found], Awaitable[T]], drafts: int) -> T:
        if replica.found is None:
            raise EngineUnavailable("the upstream has not answered yet")
        replica.load += drafts
        try:
            return await use(replica, replica.found)
        finally:
            replica.load -= drafts


def _weight(key: str, replica: Replica) -> int:
    return int.from_bytes(blake2b(f"{replica.link.api}\n{key}".encode(), digest_size=8).digest(), "big")


def affinity(chat: Chat) -> str:
    """What decides where a chat goes: everything up to the first user turn, which later turns leave unchanged."""
    if chat.prompt is not None:
        return str(chat.prompt[:256])
    first = next((i for i, turn in enumerate(chat.messages) if turn.role == "user"), 0)
    return "\n".join(f"{turn.role}: {turn.content}" for turn in chat.messages[: first + 1])
