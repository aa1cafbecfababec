"""Engines for tests: strategies run against them as they would against a model. See `docs/strategies.md`."""

from strop.strategies.testing.brain import Brain
from strop.strategies.testing.gated import Gated
from strop.strategies.testing.replayed import Replayed, replay
from strop.strategies.testing.scripted import Scripted
from strop.strategies.testing.simulated import Simulated

__all__ = ["Brain", "Gated", "Replayed", "Scripted", "Simulated", "replay"]
