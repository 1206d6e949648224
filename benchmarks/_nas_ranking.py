"""Ranking: whether a supernet orders networks as training each of them alone does.

Networks are drawn before any supernet is trained, one from each slice of FLOPs, and trained alone with two seeds.
Beside the supernet stand what a ranking must beat, FLOPs and parameters alone, and what it cannot beat, one seed
against another.
"""

from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks._nas_scale import Scale, Stage, gentle
from nas.batches import inputs_of
from nas.compare import Gap, bootstrap_statistic
from nas.evaluate import evaluate
from nas.genotype import Genotype, digest
from nas.network import Network
from nas.rows import Parts
from nas.sampling import Strategy
from nas.space import drawn
from nas.supernet_train import SupernetPlan, read_supernet, train_supernet
from nas.train import fit, traced_costs

Floats = NDArray[np.float64]
SEEDS = 2
TOP = 5  # of a ranking, whose best is trained alone


class Alone(msgspec.Struct, frozen=True):
    """A network trained alone."""

    flops: float
    parameters: int
    losses: tuple[float, ...]  # one a seed
    seconds: float


class Ranking(msgspec.Struct, frozen=True):
    """One way to rank against the mean loss of the networks trained alone."""

    name: str
    tau: Gap
    tau_best_half: Gap
    regret_at_5: float
    rows: int  # that it took
    seconds: float


def rankings(stage: Stage, scale: Scale, parts: Parts) -> list[Ranking]:
    """Every strategy with and without adaptation, the proxies, and seed against seed."""
    nets = stratified(scale, parts)
    alone = [stage.once(f"alone-{digest(net)}", Alone, lambda net=net: _alone(net, scale, parts)) for net in nets]  # type: ignore[misc]  # mypy infers no lambda with a default
    truth = np.array([np.mean(one.losses) for one in alone])
    found = [
        ranking("log FLOPs", -np.log([one.flops for one in alone]), truth),
        ranking("log parameters", -np.log([one.parameters for one in alone]), truth),
        _seed_against_seed(alone),
    ]
    ways = [(strategy, adapt) for strategy in scale.strategies for adapt in (0, scale.adapt_rows)]
    return [*found, *(_through(stage, scale, parts, strategy, adapt, nets, truth) for strategy, adapt in ways)]


def stratified(scale: Scale, parts: Parts) -> list[Genotype]:
    """One network from each of equally many slices of FLOPs."""
    rng = np.random.default_rng(17)
    many = [drawn(scale.space, rng) for _ in range(8 * scale.nets)]
    inputs = inputs_of(parts.train, parts.encoding.table_rows)
    flops = [traced_costs(Network(net, inputs), parts).flops for net in many]
    slices = np.array_split(np.argsort(flops, kind="stable"), scale.nets)
    return [many[int(rng.choice(part))] for part in slices]


def ranking(name: str, scores: Floats, truth: Floats, rows: int = 0, seconds: float = 0.0) -> Ranking:
    """Of scores whose least is said to be the best."""
    half = np.argsort(truth, kind="stable")[: len(truth) // 2]
    chosen = np.argsort(scores, kind="stable")[:TOP]
    return Ranking(
        name,
        _tau(scores, truth),
        _tau(scores[half], truth[half]),
        float(truth[chosen].min() - truth.min()),
        rows,
        seconds,
    )


def _tau(scores: Floats, truth: Floats) -> Gap:
    return bootstrap_statistic(lambda index: kendall(scores[index], truth[index]), len(truth))


def kendall(x: Floats, y: Floats) -> float:
    """Kendall's tau-b (Kendall 1945): pairs in the same order less those in the other, ties taken off both."""
    above = np.triu_indices(len(x), 1)
    a, b = (np.sign(v[:, None] - v)[above] for v in (x, y))
    untied = (a @ a) * (b @ b)
    return float(a @ b / untied**0.5) if untied else float("nan")


def _alone(net: Genotype, scale: Scale, parts: Parts) -> Alone:
    runs = [fit(net, scale.recipe, parts, seed=seed, rows=scale.rows).record for seed in range(SEEDS)]
    costs = runs[0].costs
    return Alone(
        costs.flops,
        costs.parameters + costs.table_parameters,
        tuple(run.best.valid.loss for run in runs),
        sum(run.seconds for run in runs) / SEEDS,
    )


def _seed_against_seed(alone: list[Alone]) -> Ranking:
    first, second = (np.array([one.losses[seed] for one in alone]) for seed in range(SEEDS))
    return ranking("one seed against another", first, second)


def _through(
    stage: Stage, scale: Scale, parts: Parts, strategy: Strategy, adapt: int, nets: list[Genotype], truth: Floats
) -> Ranking:
    """Losses of the networks with weights of a supernet that was trained by one strategy."""
    plan = SupernetPlan(space=scale.space, recipe=scale.recipe, rows=scale.supernet_rows, strategy=strategy)
    folder = stage.folder / f"supernet-{strategy}"
    name = f"{strategy}{' adapted' if adapt else ''}"

    def losses() -> list[float]:
        train_supernet(plan, parts, folder)
        return [_inherited(folder, net, adapt, scale, parts) for net in nets]

    found = np.array(stage.once(f"ranking-{name.replace(' ', '-')}", list[float], losses))
    record = read_supernet(folder)[1]
    return ranking(name, found, truth, record.rows + adapt * len(nets), record.seconds)


def _inherited(folder: Path, net: Genotype, adapt: int, scale: Scale, parts: Parts) -> float:
    supernet, _ = read_supernet(folder)
    network = supernet.cut(net)
    if adapt:
        return fit(net, gentle(scale.recipe), parts, rows=adapt, start=network).record.best.valid.loss
    heads = len(parts.encoding.schema.heads)
    return evaluate(network, parts.valid, parts.encoding.schema, (1.0,) * heads)[0].loss
