"""How a closed loop ended, beside the truth that only a simulator knows."""

from shlex import quote

import msgspec

from controller.core.experiment import Theta
from simulators.closed_loop import Turn
from simulators.kinds import AnyScenario, AnyWorld, over_time, true_changes
from simulators.optimum import Best
from simulators.worlds import gain, margins


class Kept(msgspec.Struct, frozen=True):
    """A guardrail in truth: `margin` is the room left under it, negative where it is broken."""

    metric: str
    limit: float
    margin: float


class Report(msgspec.Struct, frozen=True):
    """What a study recommends, and what that is worth. Changes and gains are relative: 0.01 is 1 %."""

    world: str
    seed: int
    windows: int
    events: int
    seconds: float
    stage: str
    recommended: dict[str, dict[str, float]]  # segment -> weight -> value
    true_gain: float
    true_change: dict[str, float]
    guardrails: list[Kept]
    feasible: bool
    best_gain: float  # of the best feasible vector
    best: dict[str, dict[str, float]]
    share_of_best: float | None  # None where nothing can be gained
    journal: str
    study: str


def report(
    product: AnyWorld | AnyScenario,
    seed: int,
    windows: int,
    turn: Turn,
    seconds: float,
    best: Best,
    journal: str,
    study: str,
) -> Report:
    """Judge what the study recommends: its candidate, or the best vector so far; the baseline when there is neither.

    What is true, is so in the day after the last window, as far as the world of that window foretells it.
    """
    scenario = over_time(product)
    world, carry = scenario.world, turn.state.experiment.carry
    chosen = carry.candidate or carry.pick
    theta: Theta = {"all": tuple(world.baseline.tolist())} if chosen is None else chosen.theta
    change = true_changes(scenario, windows, [theta], seen=windows - 1)[0]
    gained = float(gain(world, change))
    guardrails = [
        Kept(g.metric, g.limit, float(m)) for g, m in zip(world.guardrails, margins(world, change), strict=True)
    ]
    return Report(
        world=world.name,
        seed=seed,
        windows=windows,
        events=turn.events,
        seconds=round(seconds, 1),
        stage=carry.stage,
        recommended=named(world, theta),
        true_gain=gained,
        true_change={m.name: float(y) for m, y in zip(world.metrics, change, strict=True)},
        guardrails=guardrails,
        feasible=all(g.margin >= 0 for g in guardrails),
        best_gain=best.gain,
        best=named(world, best.theta),
        share_of_best=gained / best.gain if best.gain > 1e-9 else None,
        journal=journal,
        study=study,
    )


def report_lines(found: Report) -> list[str]:
    """The report for people."""
    share = "" if found.share_of_best is None else f": {found.share_of_best:.0%} of it"
    best = f"the best feasible vector gains {found.best_gain:+.2%}{share}"
    return [
        f"{found.windows} windows, {found.events:,} events, {found.seconds:.1f} s; the study is in stage {found.stage}",
        "",
        "recommended   " + "; ".join(_vector(segment, theta) for segment, theta in found.recommended.items()),
        f"true gain     {found.true_gain:+.2%}   ({best})",
        "true changes  " + ", ".join(f"{name} {change:+.2%}" for name, change in found.true_change.items()),
        *(
            f"guardrail     {g.metric} limit {g.limit:+.2%}: {'kept' if g.margin >= 0 else 'BROKEN'}, "
            f"true margin {g.margin:+.2%}"
            for g in found.guardrails
        ),
        "",
        f"journal       {found.journal}",
        f"              trimtab report {quote(found.journal)}",
        f"              trimtab verify {quote(found.journal)}",
    ]


def named(world: AnyWorld, theta: Theta) -> dict[str, dict[str, float]]:
    """Weights by name, per segment."""
    names = [weight.name for weight in world.weights]
    return {segment: dict(zip(names, values, strict=True)) for segment, values in theta.items()}


def vector_line(world: AnyWorld, theta: Theta) -> str:
    """A vector on one line."""
    return "; ".join(_vector(segment, values) for segment, values in named(world, theta).items())


def _vector(segment: str, theta: dict[str, float]) -> str:
    weights = " ".join(f"{name}={value:.3g}" for name, value in theta.items())
    return weights if segment == "all" else f"{segment}: {weights}"
