"""Quality: searched networks beside every baseline, at a quarter, a half and all of the best baseline's FLOPs.

One trainer, the same rows, learning rates and seeds for everyone; baselines have a front of widths and embeddings of
their own. What is compared is chosen on validation rows; the test rows are read once, at the end. Random search has the
supernet, the evaluations and the finalists of evolution; beside both stands random search without a supernet, from the
networks that were trained alone for the ranking: as many of them as the rows of a search pay for. Without that ranking,
evolution is measured alone.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np

from benchmarks._nas_data import DATA, Bench
from benchmarks._nas_ranking import Rankings
from benchmarks._nas_runs import Candidate, Trained, Training, at_rates, best_rates, seeded, train, within
from benchmarks._nas_stage import Stage
from benchmarks._nas_test_rows import Line, Versus, lines, versus
from benchmarks._nas_trees import Trees, heads, trees
from nas.baselines import NAMES, Baseline
from nas.compare import Gap
from nas.evolution import Evaluated, Rules
from nas.finalists import ENLARGED, enlarged, next_finalist
from nas.genotype import Genotype, digest
from nas.search import SearchPlan, adaptation, search
from nas.space import SMALL
from nas.supernet_train import SupernetPlan, train_supernet

Method = Literal["evolution", "random"]
METHODS: tuple[Method, ...] = ("evolution", "random")
EMBEDDINGS = (16, 8, 4)  # of baselines
LEVELS = (0.25, 0.5, 1.0)  # of the best baseline's FLOPs
ABOVE = 1.02  # times a level, that a baseline may cost: half of an embedding has a little more than half of the FLOPs
Key = tuple[int, Method, float]  # number of a search, its method, a level
DRAWS = 2000  # of random searches among the networks trained alone
Finals = dict[tuple[int, Method], dict[str, Candidate]]  # of each search, by name


class Level(msgspec.Struct, frozen=True):
    """Within a level of FLOPs: a search's pick minus the best baseline, on test rows, over seeds."""

    level: float
    flops: float
    search: int
    searched: str
    searched_flops: float
    baseline: str
    baseline_flops: float
    gap: Gap  # of logloss, mean over heads
    kl_gap: Gap  # of the divergence from the true probabilities, mean over heads
    captured: dict[str, Gap] = {}  # of the value captured, by theta; results of before have none


class Random(msgspec.Struct, frozen=True):
    """Validation losses of the pick within a level: means over searches, and over random draws of networks alone."""

    level: float
    evolution: float
    through_supernet: float
    alone: float
    alone_nets: int


class Cost(msgspec.Struct, frozen=True):
    """Of one search by evolution, in trainings of one network alone; means over searches."""

    supernet: float  # its rows
    evaluation: float  # seconds, adaptation among them
    finalists: float  # that were trained alone
    supernet_seconds: float  # a row of a supernet takes longer than one of a network alone

    @property
    def trainings(self) -> float:
        """All of it, the supernet by its rows."""
        return self.supernet + self.evaluation + self.finalists


class Quality(msgspec.Struct, frozen=True):
    """Everything of the stage."""

    candidates: list[Candidate]
    levels: list[Level]
    random: list[Random]
    best: str  # baseline, by validation rows
    test: list[Line]  # everyone
    gaps: list[Versus]  # everyone to the best baseline
    trees: list[Trees]  # LightGBM, by head; none where it is not installed
    cost: Cost | None


def baselines(bench: Bench) -> dict[str, Training]:
    """Every baseline, width, embedding and rate, with the first seed.

    Searches choose among embeddings too, and most FLOPs of some baselines (xDeepFM) go with these, not with the width.
    In the short measurement baselines have one, as wide as its searches': three would take most of its few minutes.
    """
    largest = max(bench.scale.space.embeddings)
    embeddings = (largest,) if bench.scale.space == SMALL else EMBEDDINGS
    architectures = {
        f"{name}-{width}" + (f"-e{embedding}" if embedding != largest else ""): Baseline(
            name=name, width=width, embedding=embedding
        )
        for embedding in embeddings
        for name in NAMES
        for width in bench.scale.widths
    }
    return at_rates(architectures.items(), bench.scale.rates)


def supernets(bench: Bench) -> dict[str, int]:
    """One for each search."""
    return {f"search-{number}-rows": number for number in range(bench.scale.searches)}


def searches(bench: Bench, methods: Sequence[Method] = METHODS) -> dict[str, tuple[int, Method]]:
    """Evolution and random search through each supernet."""
    return {f"search-{n}-{method}": (n, method) for n in range(bench.scale.searches) for method in methods}


def quality(stage: Stage[Bench], ranked: Rankings | None) -> Quality:
    """Baselines' fronts, searches, retrained winners, and the gaps."""
    bench = stage.bench
    ours = best_rates(stage.each("baselines", Trained, train, baselines(bench)))
    best = min(ours, key=lambda one: one.loss)
    supers = stage.each("supernets of searches", tuple[int, float], supernet, supernets(bench))
    tasks = searches(bench, METHODS if ranked else METHODS[:1])
    found = stage.each("searches", list[Evaluated], searched, tasks)
    finals = _finalists(stage, tasks, found)
    picks = _picks(finals, best.flops)
    rivals = {level: within(ours, ABOVE * level * best.flops) for level in LEVELS}
    evolved = _tuned(stage, [one for (_, method, _), one in picks.items() if method == "evolution"])
    contenders = [*evolved, *(one for one in rivals.values() if one)]
    seeds = seeded(stage, contenders, lambda _: bench.scale.seeds)
    everyone = {one.name: one for one in (*ours, *picks.values())} | seeds
    tested = {one.name: one for one in ours} | seeds
    test = lines(stage, tested.values())
    levels = [
        _level(level, best.flops, number, versus(bench, tested[pick.name], tested[rival.name]), tested)
        for (number, method, level), pick in picks.items()
        if method == "evolution" and (rival := rivals[level])
    ]
    gaps = [versus(bench, one, tested[best.name]) for name, one in tested.items() if name != best.name]
    cost = _cost(bench, [*supers.values()], found, finals, ranked) if ranked else None
    randoms = [_random(level, best.flops, picks, ranked, cost.trainings) for level in LEVELS] if ranked and cost else []
    forest = stage.each("LightGBM", Trees, trees, heads(bench))
    return Quality(
        [*everyone.values()], levels, [one for one in randoms if one], best.name, test, gaps, [*forest.values()], cost
    )  # fmt: skip


def supernet(bench: Bench, number: int) -> tuple[int, float]:
    """Train a search's supernet; its rows and seconds."""
    scale = bench.scale
    plan = SupernetPlan(space=scale.space, recipe=scale.supernet, rows=scale.supernet_rows, seed=number)
    record = train_supernet(plan, bench.parts, bench.folder / f"search-{number}" / "supernet")[1]
    return record.rows, record.seconds


def searched(bench: Bench, task: tuple[int, Method]) -> list[Evaluated]:
    """Search through its supernet."""
    scale, (number, method) = bench.scale, task
    plan = SearchPlan(
        rules=Rules(method=method, population=scale.evaluations * 2 // 5),
        evaluations=scale.evaluations,
        adapt_rows=scale.adapt_rows,
        adapt=adaptation(scale.recipe, scale.adapt_rows),
        valid_rows=scale.valid_rows,
        seed=number,
    )
    folder = bench.folder / f"search-{number}"
    return search(plan, bench.folder / DATA, folder / "supernet", folder / method)


def _finalists(stage: Stage[Bench], tasks: dict[str, tuple[int, Method]], found: dict[str, list[Evaluated]]) -> Finals:
    """Those of each search that are trained alone, one after another: all searches' first, then all their second."""
    trained: dict[str, dict[int, float]] = {name: {} for name in tasks}
    finals: Finals = {task: {} for task in tasks.values()}
    for _ in range(stage.bench.scale.finalists):
        chosen = {name: one for name in tasks if (one := next_finalist(found[name], trained[name]))}
        for name, candidate in _alone(stage, {name: one.genotype for name, one in chosen.items()}).items():
            trained[name][chosen[name].index] = candidate.loss
            finals[tasks[name]][candidate.name] = candidate
    best = {name: sorted(finals[task].values(), key=lambda one: one.loss) for name, task in tasks.items()}
    for place in range(ENLARGED):
        larger = {name: _larger(stage, few[place]) for name, few in best.items() if place < len(few)}
        for name, candidate in _alone(stage, larger).items():
            finals[tasks[name]][candidate.name] = candidate
    return finals


def _larger(stage: Stage[Bench], one: Candidate) -> Genotype:
    """A finalist enlarged."""
    assert isinstance(one.architecture, Genotype)
    return enlarged(one.architecture, stage.bench.scale.space)


def _alone(stage: Stage[Bench], nets: dict[str, Genotype]) -> dict[str, Candidate]:
    """Networks of searches, trained alone."""
    names = {name: digest(net)[:8] for name, net in nets.items()}
    wanted = at_rates(((names[name], net) for name, net in nets.items()), (stage.bench.scale.recipe.learning_rate,))
    by_name = {one.name: one for one in best_rates(stage.each("finalists", Trained, train, wanted))}
    return {name: by_name[names[name]] for name in nets}


def _picks(finals: Finals, flops: float) -> dict[Key, Candidate]:
    """What each search picks within each level: the best of its finalists that fit."""
    picked = {
        (number, method, level): within([*few.values()], level * flops)
        for (number, method), few in finals.items()
        for level in LEVELS
    }
    return {key: one for key, one in picked.items() if one}


def _tuned(stage: Stage[Bench], picks: Sequence[Candidate]) -> list[Candidate]:
    """Picks at the best of the learning rates that every baseline has."""
    wanted = at_rates(((one.name, one.architecture) for one in picks), stage.bench.scale.rates)
    return best_rates(stage.each("picks", Trained, train, wanted))


def _level(level: float, most: float, number: int, gaps: Versus, models: dict[str, Candidate]) -> Level:
    ours, theirs = models[gaps.name], models[gaps.baseline]
    return Level(
        level, level * most, number, ours.name, ours.flops, theirs.name, theirs.flops, gaps.logloss, gaps.kl,
        gaps.captured,
    )  # fmt: skip


def _random(level: float, most: float, picks: dict[Key, Candidate], ranked: Rankings, cost: float) -> Random | None:
    """Losses with the first seed, by which every pick was made."""
    means = {}
    for method in METHODS:
        losses = [one.losses[0] for (_, m, at), one in picks.items() if (m, at) == (method, level)]
        means[method] = float(np.mean(losses)) if losses else float("nan")
    flops, losses_alone = (np.array([getattr(one, what) for one in ranked.alone]) for what in ("flops", "loss"))
    count = max(1, min(round(cost), len(flops)))
    rng = np.random.default_rng(0)
    best = []
    for _ in range(DRAWS):
        drawn = rng.choice(len(flops), count, replace=False)
        fit_in = drawn[flops[drawn] <= level * most]
        best += [losses_alone[fit_in].min()] if len(fit_in) else []
    if not best:
        return None
    return Random(level, means["evolution"], means["random"], float(np.mean(best)), count)


def _cost(
    bench: Bench, supers: Sequence[tuple[int, float]], found: dict[str, list[Evaluated]], finals: Finals,
    ranked: Rankings,
) -> Cost:  # fmt: skip
    scale, searches = bench.scale, range(bench.scale.searches)
    alone = float(np.mean([one.seconds for one in ranked.alone]))
    return Cost(
        supernet=float(np.mean([rows for rows, _ in supers])) / scale.rows,
        evaluation=sum(one.seconds for n in searches for one in found[f"search-{n}-evolution"]) / len(searches) / alone,
        finalists=float(np.mean([len(finals[number, "evolution"]) for number in searches])),
        supernet_seconds=float(np.mean([seconds for _, seconds in supers])) / alone,
    )
