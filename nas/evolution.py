"""Regularised evolution over genotypes (Real et al. 2019), with several objectives and constraints.

A round proposes some children at once from what the rounds before it found; each child's randomness comes from the
seed and its own number. So the search is the same whatever order results arrive in, and however many processes work.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from nas.forms import begun
from nas.genotype import Genotype, digest
from nas.pareto import crowding, dominated, ranks
from nas.ranges import at_least, expect
from nas.space import Space, crossed, drawn, mutated

Objective = Literal["loss", "flops", "parameters", "latency_ms"]
Method = Literal["evolution", "random"]
TRIES = 100  # at a child that is new and within the constraints


class Limit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A constraint: the objective may not exceed `at_most`."""

    objective: Objective
    at_most: float

    def __post_init__(self) -> None:
        expect("at_most", self.at_most, self.at_most > 0, "above 0")


class Sizes(msgspec.Struct, frozen=True):
    """What is known of a network without training it. Latency is None without a table."""

    flops: float
    parameters: int
    latency_ms: float | None


class Evaluated(msgspec.Struct, frozen=True):
    """One network that was evaluated. `rows`: what its adaptation trained on."""

    index: int
    genotype: Genotype
    loss: float
    sizes: Sizes
    rows: int
    seconds: float

    def value(self, objective: Objective) -> float:
        """Of an objective."""
        return self.loss if objective == "loss" else size_of(self.sizes, objective)


def size_of(sizes: Sizes, objective: Objective) -> float:
    """A size as a number; a latency without a table is infinite."""
    found = getattr(sizes, objective)
    return float("inf") if found is None else float(found)


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """How children are proposed. `method` random ignores what was found."""

    method: Method = "evolution"
    objectives: tuple[Objective, ...] = ("loss", "flops")
    limits: tuple[Limit, ...] = ()
    population: int = 32  # the newest: older ones die
    tournament: int = 8
    children: int = 8  # a round
    crossover: float = 0.25  # share of children with two parents
    known: float = 0.75  # share of known forms in what either method draws; the rest is drawn uniformly

    def __post_init__(self) -> None:
        named = ", ".join(self.objectives) or "none"
        expect("search.objectives", named, "loss" in self.objectives, "loss among them")
        expect("search.objectives", named, len(set(self.objectives)) == len(self.objectives), "each once")
        at_least("search", self, population=1, tournament=1, children=1)
        expect("search.known", self.known, 0 <= self.known <= 1, "a share, 0 to 1")


def proposed(
    rules: Rules, space: Space, found: Sequence[Evaluated], count: int, seed: int, sizes: Callable[[Genotype], Sizes],
    named: Callable[[Genotype], str] = digest,
) -> list[Genotype]:  # fmt: skip
    """The next `count` genotypes after those found: new networks, within the limits on size.

    Where `TRIES` give none within the limits, the new one nearest to them is taken; where they give none that is new,
    as in a space that has been searched through, any. `named`: the same for genotypes that are the same network.
    """
    now = _Round(rules, space, found, _order(rules, found), sizes, named)
    seen = {named(one.genotype) for one in found}
    children = []
    for number in range(len(found), len(found) + count):
        child = _child(now, number, seen, np.random.default_rng((seed, number)))
        seen.add(named(child))
        children.append(child)
    return children


class _Round(msgspec.Struct, frozen=True, eq=False):
    """What all children of a round are proposed from."""

    rules: Rules
    space: Space
    found: Sequence[Evaluated]
    places: NDArray[np.int64]  # (n,) of those found; the fittest has 0
    sizes: Callable[[Genotype], Sizes]
    named: Callable[[Genotype], str]


def front(rules: Rules, found: Sequence[Evaluated]) -> list[Evaluated]:
    """The evaluated networks within all limits that no other dominates, by rising loss."""
    fit = within(rules, found)
    if not fit:
        return []
    kept = ~dominated(_values(rules, fit))
    return sorted((one for one, keep in zip(fit, kept, strict=True) if keep), key=lambda one: (one.loss, one.index))


def within(rules: Rules, found: Sequence[Evaluated]) -> list[Evaluated]:
    """The evaluated networks within all limits."""
    return [one for one in found if not _excess(rules, one)]


def _child(now: _Round, number: int, seen: set[str], rng: np.random.Generator) -> Genotype:
    best, least = drawn(now.space, rng), float("inf")
    for attempt in range(TRIES):
        known = now.rules.known if attempt < TRIES // 2 else 0.0  # a form may exceed the limits at any size
        child = _variation(now, number, known, rng)
        if now.named(child) in seen:
            continue
        excess = _size_excess(now.rules, now.sizes(child)) if now.rules.limits else 0.0
        if excess < least:
            best, least = child, excess
        if not excess:
            break
    return best


def _variation(now: _Round, number: int, known: float, rng: np.random.Generator) -> Genotype:
    """A known form or a draw in place `number` while the population is not full, then a child of the living."""
    if now.rules.method == "random" or len(now.found) < now.rules.population:
        return begun(now.space, known, number, rng)
    parent = _chosen(now, rng)
    if rng.random() < now.rules.crossover:
        parent = crossed(parent, _chosen(now, rng), rng)
    return mutated(parent, now.space, rng)


def _chosen(now: _Round, rng: np.random.Generator) -> Genotype:
    """The fittest of a tournament among the living."""
    living = range(max(0, len(now.found) - now.rules.population), len(now.found))
    entrants = rng.choice(living, min(now.rules.tournament, len(living)), replace=False)
    return now.found[int(min(entrants, key=lambda i: now.places[i]))].genotype


def _order(rules: Rules, found: Sequence[Evaluated]) -> NDArray[np.int64]:
    """(n,) places: within the limits first, then by front, then where the front is thin."""
    if not found:
        return np.zeros(0, np.int64)
    values = _values(rules, found)
    excess = np.array([_excess(rules, one) for one in found])
    rank = ranks(values)
    thin = np.zeros(len(found))
    for level in np.unique(rank):
        thin[rank == level] = crowding(values[rank == level])
    order = np.lexsort((np.arange(len(found)), -thin, rank, excess))
    places = np.empty(len(found), np.int64)
    places[order] = np.arange(len(found))
    return places


def _values(rules: Rules, found: Sequence[Evaluated]) -> NDArray[np.float64]:
    return np.array([[one.value(objective) for objective in rules.objectives] for one in found])


def _excess(rules: Rules, one: Evaluated) -> float:
    """By how much limits are exceeded, relative, summed; 0 within them."""
    return sum(max(0.0, one.value(limit.objective) / limit.at_most - 1) for limit in rules.limits)


def _size_excess(rules: Rules, sizes: Sizes) -> float:
    on_size = (limit for limit in rules.limits if limit.objective != "loss")
    return sum(max(0.0, size_of(sizes, limit.objective) / limit.at_most - 1) for limit in on_size)
