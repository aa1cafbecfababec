"""The remote engine: OpenAI-compatible servers over HTTP."""

from strop.server.engine.remote.engine import RemoteEngine

__all__ = ["RemoteEngine"]
