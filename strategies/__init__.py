"""What refinement is: strategies, and the kit they are written with. See `kit` for the vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from types import MappingProxyType

from strop.strategies.ab_mcts import ab_mcts
from strop.strategies.abstain import abstain
from strop.strategies.adaptive import adaptive
from strop.strategies.art import art
from strop.strategies.backtrack import backtrack
from strop.strategies.beam_search import beam_search
from strop.strategies.berry import berry
from strop.strategies.best_of_n import best_of_n
from strop.strategies.checklist import checklist
from strop.strategies.critic_actor import critic_actor
from strop.strategies.debate import debate
from strop.strategies.deepconf import deepconf
from strop.strategies.direct import direct
from strop.strategies.dvts import dvts
from strop.strategies.evolve_chain import evolve_chain
from strop.strategies.first_finish import first_finish
from strop.strategies.id_sampling import id_sampling
from strop.strategies.ioe import ioe
from strop.strategies.kit.strategy import Strategy, catalogue, strategy_of
from strop.strategies.magicore import magicore
from strop.strategies.mcts import mcts
from strop.strategies.particle_filter import particle_filter
from strop.strategies.recombine import recombine
from strop.strategies.self_check import self_check
from strop.strategies.self_consistency import self_consistency
from strop.strategies.self_contrast import self_contrast
from strop.strategies.self_polish import self_polish
from strop.strategies.self_refine import self_refine
from strop.strategies.speculative_rejection import speculative_rejection
from strop.strategies.tear import tear
from strop.strategies.think_less import think_less
from strop.strategies.think_longer import think_longer
from strop.strategies.verify_revise import verify_revise

CATALOGUE = catalogue(
    direct,
    best_of_n,
    self_consistency,
    self_refine,
    id_sampling,
    beam_search,
    particle_filter,
    dvts,
    first_finish,
    speculative_rejection,
    deepconf,
    ab_mcts,
    mcts,
    berry,
    think_longer,
    think_less,
    adaptive,
    ioe,
    checklist,
    tear,
    self_check,
    backtrack,
    verify_revise,
    critic_actor,
    evolve_chain,
    self_polish,
    magicore,
    art,
    debate,
    abstain,
    recombine,
    self_contrast,
)
"""The strategies that come with strop, by name."""

GROUP = "strop.strategies"


def discover(known: Mapping[str, Strategy] = CATALOGUE) -> Mapping[str, Strategy]:
    """The catalogue and the strategies of installed packages: entry points of the group `strop.strategies`.

    An entry point names a strategy function; the function's own name is the strategy's name. Raises `TypeError` when
    two packages claim the same name or a function is not a strategy: a server should not start half-equipped.
    """
    found = dict(known)
    for entry in entry_points(group=GROUP):
        strategy = strategy_of(entry.load())
        if strategy.name in found:
            raise TypeError(f"the entry point '{entry.name}' defines the strategy '{strategy.name}' a second time")
        found[strategy.name] = strategy
    return MappingProxyType(found)


__all__ = ["CATALOGUE", "discover"]
