"""API keys: hashed at rest, compared in constant time, each with its own rights."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from hmac import compare_digest

from strop.server.service import Principal
from strop.server.settings import Key, Settings

PLACEHOLDERS = frozenset({"", "changeme", "empty", "none", "null", "secret", "sk-xxx", "test", "token", "your-api-key"})
"""Keys that stand in every tutorial; a server that listens publicly must not accept them."""

LEAST_LENGTH = 16
"""Shortest plain key, in characters, that the settings may hold."""


def digest(key: str) -> str:
    """The stored form of a key: SHA-256 in hex. Keys are random, so no salt or stretching is needed."""
    return sha256(key.encode()).hexdigest()


class Keyring:
    """The keys of a server. With no key at all, everybody is the default principal."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._entries = [(key.sha256.encode(), _principal(key)) for key in keys]

    @classmethod
    def of(cls, settings: Settings) -> Keyring:
        """Keys of the settings; raises `ValueError` for a plain key that is a placeholder or too short."""
        plain = None if settings.api_key is None else settings.api_key.get_secret_value()
        if plain is None:
            return cls(settings.keys)
        if plain.lower() in PLACEHOLDERS or len(plain) < LEAST_LENGTH:
            raise ValueError(
                f"api_key must have at least {LEAST_LENGTH} characters and be no placeholder; try `strop key`"
            )
        return cls([*settings.keys, Key(sha256=digest(plain), admin=True)])

    @property
    def required(self) -> bool:
        """Whether requests need a key."""
        return bool(self._entries)

    def find(self, key: str) -> Principal | None:
        """Whose key this is. Looks at every entry, so the time tells nothing."""
        given = digest(key).encode()
        found: Principal | None = None
        for stored, principal in self._entries:
            if compare_digest(stored, given):
                found = principal
        return found


def _principal(key: Key) -> Principal:
    allowed = None if key.strategies is None else frozenset(key.strategies)
    return Principal(key.tenant, allowed, key.limits, key.admin)
