"""Quality: searched networks beside every baseline, at a quarter, a half and all of the best baseline's FLOPs.

One trainer, the same rows, learning rates and seeds for everyone; baselines have a front of widths of their own. What
is compared is chosen on validation rows; the test rows are read once, at the end. Random search has the supernet, the
evaluations and the finalists of evolution; beside both stands random search without a supernet, from the networks that
were trained alone for the ranking: as many of them as the rows of a search pay for.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks._nas_data import DATA, Bench
from benchmarks._nas_ranking import Rankings
from benchmarks._nas_runs import Candidate, Trained, Training, at_rates, best_rates, run_of, seeded, train, within
from benchmarks._nas_stage import Stage
from benchmarks._nas_trees import Trees, heads, trees
from nas.baselines import NAMES, Baseline
from nas.batches import probabilities
from nas.compare import Gap, paired_gap
from nas.evolution import Evaluated, Rules
from nas.finalists import next_finalist
from nas.genotype import digest
from nas.metrics import row_kl, row_logloss
from nas.search import SearchPlan, adaptation, search
from nas.supernet_train import SupernetPlan, train_supernet

Floats = NDArray[np.float64]
Method = Literal["evolution", "random"]
METHODS: tuple[Method, ...] = ("evolution", "random")
LEVELS = (0.25, 0.5, 1.0)  # of the best baseline's FLOPs
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


class Random(msgspec.Struct, frozen=True):
    """Validation losses of the pick within a level: means over searches, and over random draws of networks alone."""

    level: float
    evolution: float
    through_supernet: float
    alone: float
    alone_nets: int


class OnTest(msgspec.Struct, frozen=True):
    """A finalist on test rows: means over seeds and heads."""

    name: str
    flops: float
    logloss: float
    kl: float
    kl_by_head: tuple[float, ...]


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
    test: list[OnTest]
    trees: list[Trees]  # LightGBM, by head; none where it is not installed
    cost: Cost


def baselines(bench: Bench) -> dict[str, Training]:
    """Every baseline, width and rate, with the first seed."""
    embedding = max(bench.scale.space.embeddings)
    architectures = {
        f"{name}-{width}": Baseline(name=name, width=width, embedding=embedding)
        for name in NAMES
        for width in bench.scale.widths
    }
    return at_rates(architectures.items(), bench.scale.rates)


def supernets(bench: Bench) -> dict[str, int]:
    """One for each search."""
    return {f"search-{number}-rows": number for number in range(bench.scale.searches)}


def searches(bench: Bench) -> dict[str, tuple[int, Method]]:
    """Evolution and random search through each supernet."""
    return {f"search-{n}-{method}": (n, method) for n in range(bench.scale.searches) for method in METHODS}


def quality(stage: Stage[Bench], ranked: Rankings) -> Quality:
    """Baselines' fronts, searches, retrained winners, and the gaps."""
    bench = stage.bench
    ours = best_rates(stage.each("baselines", Trained, train, baselines(bench)))
    best = min(ours, key=lambda one: one.loss)
    supers = stage.each("supernets of searches", tuple[int, float], supernet, supernets(bench))
    found = stage.each("searches", list[Evaluated], searched, searches(bench))
    finals = _finalists(stage, found)
    picks = _picks(finals, best.flops)
    rivals = {level: within(ours, level * best.flops) for level in LEVELS}
    evolved = [one for (_, method, _), one in picks.items() if method == "evolution"]
    finalists = seeded(stage, [*evolved, *(one for one in rivals.values() if one)], lambda _: bench.scale.seeds)
    measured = _measured(stage, finalists)
    levels = [
        _level(level, best.flops, number, finalists[pick.name], finalists[rival.name], measured)
        for (number, method, level), pick in picks.items()
        if method == "evolution" and (rival := rivals[level])
    ]
    cost = _cost(bench, [*supers.values()], found, finals, ranked)
    test = [_on_test(one, *measured[name]) for name, one in finalists.items()]
    everyone = {one.name: one for one in (*ours, *picks.values(), *finalists.values())}
    randoms = [_random(level, best.flops, picks, ranked, cost.trainings) for level in LEVELS]
    forest = stage.each("LightGBM", Trees, trees, heads(bench))
    return Quality(list(everyone.values()), levels, [one for one in randoms if one], test, [*forest.values()], cost)


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


def _finalists(stage: Stage[Bench], found: dict[str, list[Evaluated]]) -> Finals:
    """Those of each search that are trained alone, one after another: all searches' first, then all their second."""
    tasks = searches(stage.bench)
    trained: dict[str, dict[int, float]] = {name: {} for name in tasks}
    finals: Finals = {task: {} for task in tasks.values()}
    for _ in range(stage.bench.scale.finalists):
        chosen = {name: one for name in tasks if (one := next_finalist(found[name], trained[name]))}
        nets = {digest(one.genotype)[:8]: one.genotype for one in chosen.values()}
        wanted = at_rates(nets.items(), (stage.bench.scale.recipe.learning_rate,))
        by_name = {one.name: one for one in best_rates(stage.each("finalists", Trained, train, wanted))}
        for name, one in chosen.items():
            candidate = by_name[digest(one.genotype)[:8]]
            trained[name][one.index] = candidate.loss
            finals[tasks[name]][candidate.name] = candidate
    return finals


def _picks(finals: Finals, flops: float) -> dict[Key, Candidate]:
    """What each search picks within each level: the best of its finalists that fit."""
    picked = {
        (number, method, level): within([*few.values()], level * flops)
        for (number, method), few in finals.items()
        for level in LEVELS
    }
    return {key: one for key, one in picked.items() if one}


def _measured(stage: Stage[Bench], finalists: dict[str, Candidate]) -> dict[str, tuple[Floats, Floats]]:
    """(seeds, shown) mean logloss over heads, and (seeds, n, heads) divergence from the truth, of each test row."""
    wanted = {
        f"test-{one.name}-{seed}": Training(one.name, one.architecture, one.rate, seed)
        for one in finalists.values()
        for seed in range(stage.bench.scale.seeds)
    }
    stage.each("finalists on test rows", bool, _test, wanted)
    return {
        name: (
            np.stack([np.load(_array(stage.bench, one, seed, "logloss")) for seed in range(stage.bench.scale.seeds)]),
            np.stack([np.load(_array(stage.bench, one, seed, "kl")) for seed in range(stage.bench.scale.seeds)]),
        )
        for name, one in finalists.items()
    }


def _test(bench: Bench, one: Training) -> bool:
    """Write what each test row says of a training."""
    test = bench.parts.test
    y, p = (np.asarray(part, np.float64) for part in (test.labels, test.truth))
    q = probabilities(run_of(bench, one).model, test).numpy()
    shown = ~np.isnan(y).any(axis=1)
    np.save(_array(bench, one, one.seed, "logloss"), row_logloss(q[shown], y[shown]).mean(1).astype(np.float32))
    np.save(_array(bench, one, one.seed, "kl"), row_kl(p, q).astype(np.float32))
    return True


def _array(bench: Bench, one: Training | Candidate, seed: int, what: str) -> str:
    return str(bench.folder / f"test-{one.name}-{seed}-{what}.npy")


def _level(
    level: float, most: float, number: int, ours: Candidate, theirs: Candidate,
    measured: dict[str, tuple[Floats, Floats]],
) -> Level:  # fmt: skip
    losses, divergences = ([measured[one.name][what] for one in (ours, theirs)] for what in (0, 1))
    return Level(
        level, level * most, number, ours.name, ours.flops, theirs.name, theirs.flops,
        paired_gap(*losses), paired_gap(*(kl.mean(2) for kl in divergences)),
    )  # fmt: skip


def _on_test(one: Candidate, losses: Floats, divergences: Floats) -> OnTest:
    by_head = divergences.mean(axis=(0, 1))
    return OnTest(one.name, one.flops, float(losses.mean()), float(by_head.mean()), tuple(by_head.tolist()))


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
