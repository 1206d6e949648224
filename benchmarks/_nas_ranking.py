"""Ranking: whether a supernet orders networks as training each of them alone does.

Networks are drawn before any supernet is trained, one from each slice of FLOPs, and trained alone with two seeds.
Beside the supernet stand what a ranking must beat, FLOPs and parameters alone, and what it cannot beat, one seed
against another. Differences between two rankings are paired over the networks.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks._nas_data import Bench
from benchmarks._nas_stage import Stage
from nas.batches import inputs_of
from nas.compare import Gap, bootstrap_statistic
from nas.evaluate import evaluate
from nas.genotype import Genotype, digest
from nas.network import Network
from nas.sampling import Strategy
from nas.search import adaptation
from nas.space import drawn
from nas.supernet_train import SupernetPlan, read_supernet, train_supernet
from nas.train import fit, traced_costs

Floats = NDArray[np.float64]
SEEDS = 2
TOP = 5  # of a ranking, whose best is trained alone
SLICE_OF = 3  # networks are drawn for each slice of FLOPs
CHUNK = 10  # networks that one task evaluates
PARAMETERS, ANOTHER_SEED = "log parameters", "one seed against another"


class Alone(msgspec.Struct, frozen=True):
    """A network trained alone with one seed."""

    flops: float
    parameters: int
    loss: float
    seconds: float


class Ranking(msgspec.Struct, frozen=True):
    """One way to rank against the mean loss of the networks trained alone."""

    name: str
    tau: Gap
    tau_best_half: Gap
    regret_at_5: float
    rows: int  # that it took
    scores: list[float]


class Difference(msgspec.Struct, frozen=True):
    """Tau of one way less that of another, over the same networks."""

    first: str
    second: str
    tau: Gap


class Rankings(msgspec.Struct, frozen=True):
    """Everything of the stage. `truth`: the mean loss of each network trained alone."""

    nets: list[Genotype]
    alone: list[Alone]  # with the first seed
    truth: list[float]
    ways: list[Ranking]
    differences: list[Difference]


def rankings(stage: Stage[Bench]) -> Rankings:
    """Every strategy with and without adaptation, the proxies, and seed against seed."""
    scale = stage.bench.scale
    nets = stratified(stage)
    alone = _trained_alone(stage, nets)
    losses = np.array([[one.loss for one in runs] for runs in alone])
    truth, first = losses.mean(1), [runs[0] for runs in alone]
    found = [
        ranking("log FLOPs", -np.log([one.flops for one in first]), truth),
        ranking(PARAMETERS, -np.log([one.parameters for one in first]), truth),
        ranking(ANOTHER_SEED, losses[:, 0], losses[:, 1]),
    ]
    trained = stage.each("supernets", int, train_strategy, strategies(stage.bench))
    for strategy in scale.strategies:
        for adapt in (0, scale.adapt_rows):
            rows = trained[f"supernet-{strategy}-rows"] + adapt * len(nets)
            found.append(ranking(_name(strategy, adapt), _through(stage, strategy, adapt, nets), truth, rows))
    return Rankings(nets, first, truth.tolist(), found, _differences(found, truth, scale.strategies))


def strategies(bench: Bench) -> dict[str, Strategy]:
    """One supernet for each."""
    return {f"supernet-{strategy}-rows": strategy for strategy in bench.scale.strategies}


def stratified(stage: Stage[Bench]) -> list[Genotype]:
    """One network from each of equally many slices of FLOPs."""
    scale = stage.bench.scale
    rng = np.random.default_rng(17)
    many = [drawn(scale.space, rng) for _ in range(SLICE_OF * scale.nets)]
    sizes = stage.each("FLOPs", list[float], _flops, _chunks("flops", many))
    flops = [one for chunk in sizes.values() for one in chunk]
    slices = np.array_split(np.argsort(flops, kind="stable"), scale.nets)
    return [many[int(rng.choice(part))] for part in slices]


def _flops(bench: Bench, nets: list[Genotype]) -> list[float]:
    inputs = inputs_of(bench.parts.train, bench.parts.encoding.table_rows)
    return [traced_costs(Network(net, inputs), bench.parts).flops for net in nets]


def _chunks(name: str, nets: Sequence[Genotype]) -> dict[str, list[Genotype]]:
    return {f"{name}-{start:03d}": list(nets[start : start + CHUNK]) for start in range(0, len(nets), CHUNK)}


def _trained_alone(stage: Stage[Bench], nets: list[Genotype]) -> list[list[Alone]]:
    tasks = {f"alone-{digest(net)}-{seed}": (net, seed) for net in nets for seed in range(SEEDS)}
    found = stage.each("networks trained alone", Alone, _alone, tasks)
    return [[found[f"alone-{digest(net)}-{seed}"] for seed in range(SEEDS)] for net in nets]


def _alone(bench: Bench, task: tuple[Genotype, int]) -> Alone:
    net, seed = task
    run = fit(net, bench.scale.recipe, bench.parts, seed=seed, rows=bench.scale.rows).record
    costs = run.costs
    return Alone(costs.flops, costs.parameters + costs.table_parameters, run.best.valid.loss, run.seconds)


def train_strategy(bench: Bench, strategy: Strategy) -> int:
    """Train a supernet; its rows."""
    scale = bench.scale
    plan = SupernetPlan(space=scale.space, recipe=scale.supernet, rows=scale.supernet_rows, strategy=strategy)
    return train_supernet(plan, bench.parts, bench.folder / f"supernet-{strategy}")[1].rows


def _through(stage: Stage[Bench], strategy: Strategy, adapt: int, nets: list[Genotype]) -> Floats:
    """(n,) losses of the networks with weights of a supernet that was trained by one strategy."""
    name = _name(strategy, adapt)
    tasks = {key: (strategy, adapt, part) for key, part in _chunks(f"through-{name.replace(' ', '-')}", nets).items()}
    found = stage.each(f"{name}: networks", list[float], _inherited, tasks)
    return np.array([one for chunk in found.values() for one in chunk])


def _inherited(bench: Bench, task: tuple[Strategy, int, list[Genotype]]) -> list[float]:
    strategy, adapt, nets = task
    supernet, _ = read_supernet(bench.folder / f"supernet-{strategy}")
    parts = msgspec.structs.replace(bench.parts, valid=bench.parts.valid.observed(bench.scale.valid_rows))
    recipe = adaptation(bench.scale.recipe, adapt)
    found = []
    for net in nets:
        network = supernet.cut(net)
        if adapt:
            found.append(fit(net, recipe, parts, rows=adapt, start=network).record.best.valid.loss)
        else:
            heads = parts.encoding.schema.heads
            found.append(evaluate(network, parts.valid, parts.encoding.schema, (1.0,) * len(heads))[0].loss)
    return found


def _name(strategy: str, adapt: int) -> str:
    return f"{strategy}{' adapted' if adapt else ''}"


def ranking(name: str, scores: Floats, truth: Floats, rows: int = 0) -> Ranking:
    """Of scores whose least is said to be the best."""
    half = np.argsort(truth, kind="stable")[: len(truth) // 2]
    chosen = np.argsort(scores, kind="stable")[:TOP]
    regret = float(truth[chosen].min() - truth.min())
    return Ranking(name, _tau(scores, truth), _tau(scores[half], truth[half]), regret, rows, scores.tolist())


def _differences(found: Sequence[Ranking], truth: Floats, strategies: Sequence[Strategy]) -> list[Difference]:
    """Adaptation in every strategy; the default against both proxies and every other strategy."""
    scores = {one.name: np.array(one.scores) for one in found}
    best = _name(strategies[0], 1)
    pairs = [(_name(strategy, 1), _name(strategy, 0)) for strategy in strategies]
    pairs += [(best, other) for other in ("log FLOPs", PARAMETERS)]
    pairs += [(best, _name(strategy, 1)) for strategy in strategies[1:]]
    return [Difference(first, second, _gap(scores[first], scores[second], truth)) for first, second in pairs]


def _tau(scores: Floats, truth: Floats) -> Gap:
    return bootstrap_statistic(lambda index: kendall(scores[index], truth[index]), len(truth))


def _gap(first: Floats, second: Floats, truth: Floats) -> Gap:
    def difference(index: NDArray[np.int64]) -> float:
        return kendall(first[index], truth[index]) - kendall(second[index], truth[index])

    return bootstrap_statistic(difference, len(truth))


def kendall(x: Floats, y: Floats) -> float:
    """Kendall's tau-b (Kendall 1945): pairs in the same order less those in the other, ties taken off both."""
    above = np.triu_indices(len(x), 1)
    a, b = (np.sign(v[:, None] - v)[above] for v in (x, y))
    untied = (a @ a) * (b @ b)
    return float(a @ b / untied**0.5) if untied else float("nan")
