"""The simulated engine: no model, everything else."""

from strop.server.engine.simulated.engine import SimulatedEngine

__all__ = ["SimulatedEngine"]
