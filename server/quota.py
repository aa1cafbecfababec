"""Quotas: generated tokens per minute and tenant, hidden ones included."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import monotonic

from strop.server.settings import Key
from strop.strategies.kit.errors import StropError
from strop.strategies.kit.events import Event, Finished


class RateLimited(StropError):
    """The tenant's quota is used up; `retry_after` is in seconds."""

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(slots=True)
class _Bucket:
    """Fills with `per_minute` tokens a minute up to `per_minute`; may go below zero, since cost is known afterwards."""

    per_minute: int
    level: float
    at: float


@dataclass(frozen=True, slots=True)
class Standing:
    """What a tenant has left, for the x-ratelimit headers. `reset` is seconds until the bucket is full."""

    limit: int
    remaining: int
    reset: float


class Quotas:
    """Token buckets of the tenants that have a limit. A request is admitted while its bucket is not empty and pays at
    the end what it really generated, so one answer may overdraw the bucket, and the next waits until it has refilled.
    """

    def __init__(self, keys: Iterable[Key], clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._buckets = {
            key.tenant: _Bucket(key.tokens_per_minute, float(key.tokens_per_minute), clock())
            for key in keys
            if key.tokens_per_minute
        }

    def standing(self, tenant: str) -> Standing | None:
        """The bucket of a tenant as it is now; None without a limit."""
        bucket = self._refilled(tenant)
        if bucket is None:
            return None
        missing = bucket.per_minute - bucket.level
        return Standing(bucket.per_minute, max(0, int(bucket.level)), 60 * missing / bucket.per_minute)

    def admit(self, tenant: str) -> None:
        """Raise `RateLimited` if the tenant has nothing left."""
        bucket = self._refilled(tenant)
        if bucket is not None and bucket.level < 1:
            wait = 60 * (1 - bucket.level) / bucket.per_minute
            raise RateLimited(
                f"this key may generate {bucket.per_minute} tokens a minute, and they are used up", retry_after=wait
            )

    def observer(self, tenant: str) -> Callable[[Event], None]:
        """Charges the tenant when a run has finished, also one whose client left."""

        def observe(event: Event) -> None:
            bucket = self._refilled(tenant)
            if bucket is not None and isinstance(event, Finished):
                bucket.level -= event.outcome.bill.total.completion

        return observe

    def _refilled(self, tenant: str) -> _Bucket | None:
        bucket = self._buckets.get(tenant)
        if bucket is not None:
            now = self._clock()
            bucket.level = min(bucket.per_minute, bucket.level + (now - bucket.at) * bucket.per_minute / 60)
            bucket.at = now
        return bucket
