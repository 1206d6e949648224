"""Whether what is promoted deserves it: errors where nothing can be gained, power where 2 % can, and what is claimed.

A study ends here with its first promotion, or once it is too late to begin a test that could end in time.
"""

from collections.abc import Sequence
from functools import partial

import msgspec
import numpy as np

from benchmarks._arena_run import Hour, Trimtab, hours_of
from benchmarks._arena_scores import Promotion, promotions_of
from benchmarks._arena_worlds import AVAILABLE, of_run
from benchmarks._calibration_figures import Figure, Spread, share
from controller.core.plan import Plan
from controller.core.safety import Guardrail
from controller.shell.fingerprint import single_threaded
from simulators.scenarios import Scenario
from simulators.shapes import Shape, generated
from simulators.study import study_of
from simulators.worlds import World

HOURS = 72
COST = 3.0  # parts of the click rate that a part of watch time costs


def _costly() -> World:
    """Whatever raises watch time by 1 % costs 3 % of the click rate, of which .3 % may be lost."""
    made = generated("costly", "4 weights, every gain breaks a guardrail", Shape(d=4, seed=44, active=4, height=0.05))
    watch = next(q.response for q in made.quantities if q.name == "watch_s")
    responses = {
        "watch_s": {names: c * (1.0 + COST) for names, c in watch.items()},  # per click
        "clicks": {names: -COST * c for names, c in watch.items()},
        "reports": {},
        "impressions": {},
    }
    quantities = tuple(msgspec.structs.replace(q, response=responses[q.name]) for q in made.quantities)
    rails = (Guardrail("ctr", min_change=-0.003), made.guardrails[1])
    return msgspec.structs.replace(made, quantities=quantities, guardrails=rails, explore_share=AVAILABLE)


COSTLY = Scenario(name="costly", summary="4 weights, every gain breaks a guardrail", world=_costly())
CASES = {"aa": (400, 4), "costly": (400, 4), "trap": (40, 4), "small": (200, 8)}  # studies, arms; 4 for their time
WRONG, POWER, GOOD = 0.03, 0.8, 0.95  # 12 of 400; of 200 studies; of what is promoted


class Study(msgspec.Struct, frozen=True):
    """What a study promoted first."""

    promotion: Promotion | None
    reached: str  # the stage of its last hour


def measured(runs: int | None, spread: Spread) -> list[Figure]:
    """Promotions in worlds without and with something to gain."""
    figures = []
    for case, (count, _) in CASES.items():
        found = spread(partial(study, case), range(runs or count), f"promotions: {case}")
        promoted = [s.promotion for s in found if s.promotion]
        figures += _power(case, found, promoted) if case == "small" else _errors(case, found)
    return figures


def _errors(case: str, found: Sequence[Study]) -> list[Figure]:
    promoted = [s.promotion is not None for s in found]
    tested = [s.promotion is not None or s.reached != "explore" for s in found]
    return [share(case, "promoted", promoted, most=WRONG), share(case, "in a test at the end, or promoted", tested)]


def _power(case: str, found: Sequence[Study], promoted: Sequence[Promotion]) -> list[Figure]:
    figures = [
        share(case, f"promoted within {HOURS} h", [s.promotion is not None for s in found], least=POWER),
        share(case, "of these truly feasible and better", [p.good for p in promoted], least=GOOD),
    ]
    if len(promoted) < 2:
        return figures
    off = np.array([p.claimed - p.gain_then for p in promoted])
    error = float(off.std(ddof=1) / np.sqrt(len(off)))
    sd, z = float(np.mean([p.claimed_sd for p in promoted])), float(off.mean() / error)
    return [
        *figures,
        Figure(case, "claimed less true gain, of the sample's hours", float(off.mean()), error, len(off)),
        Figure(case, "the same in standard errors", z, None, len(off), "within 2", abs(z) <= 2.0),
        Figure(case, "standard error that a claim states", sd, None, len(off)),
        Figure(case, "true gain of what was promoted", float(np.mean([p.gain_then for p in promoted])), None, len(off)),
    ]


def study(case: str, seed: int) -> Study:
    """Play a study until it is decided whether it promotes anything in time."""
    scenario = COSTLY if case == COSTLY.name else of_run(case, seed)
    with single_threaded():
        world = msgspec.structs.replace(scenario.world, explore_arms=CASES[case][1])
        plan = study_of(world, seed).plan
        played: list[Hour] = []
        for hour in hours_of(scenario, plan, Trimtab(), seed, HOURS):
            played.append(hour)
            if hour.claim is not None or (hour.stage == "explore" and len(played) > last_start(plan)):
                break
    return Study(next(iter(promotions_of(scenario, played)), None), played[-1].stage)


def last_start(plan: Plan) -> int:
    """The hours after which a test that has not begun cannot be judged within the study's."""
    return HOURS - (plan.rollout.confirm_ms + plan.window.lateness_ms) // plan.window.length_ms
