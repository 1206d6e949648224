"""`trimtab front` and `choose`: the front of a study, from its journal."""

from collections.abc import Iterator

import numpy as np

from controller.core import replan
from controller.core.operate import Command
from controller.core.rollout import TESTS
from controller.core.step import seeded
from controller.core.tradeoffs import NOW, Offer, Tradeoffs, tradeoffs
from controller.shell.config import Study
from controller.shell.journal import Journal
from controller.shell.recorder import last_plan, restored
from controller.shell.story import in_utc, spread, terms, thetas

STUDY_FILE = "file"  # in place of a number: the study file's own objective again


class NoSuchOffer(Exception):
    """The front has no such point, or there is no front yet."""


def offered(study: Study) -> Tradeoffs:
    """The study's front as of its newest decision, for the objectives that the file names now.

    Raises:
        NoSuchOffer: nothing was decided yet.
        PlanRefused: the study file was changed in a way that the journal cannot follow.
        JournalRefused, JournalFailed: it is no journal, or cannot be read.
    """
    with Journal.read_only(study.journal) as journal, journal.snapshot():
        before, state = last_plan(study.plan, journal), restored(journal)
    if before is None or state is None or not state.experiment.carry.decided_through_ms:
        raise NoSuchOffer(f"journal {study.journal}: nothing was decided yet, so there is nothing to choose from")
    experiment = replan.follow(before, study.plan, state.experiment, 0)
    rng = seeded(study.plan.seed)(experiment.carry.decided_through_ms)
    return tradeoffs(study.plan, experiment, state.windows.cells, rng)


def choice(study: Study, point: str, who: str, why: str) -> Command:
    """The command that puts a point of the front to the test. `point`: its number, its label, or `STUDY_FILE`.

    Raises what `offered` raises.
    """
    if point == STUDY_FILE:
        return Command("choose", who, why)
    found = offered(study).offers
    own = next((offer for offer in found if point in (offer.label, offer.label.partition(".")[0])), None)
    if own is None:
        labels = ", ".join(offer.label for offer in found) or "none"
        raise NoSuchOffer(
            f"the front has no point {point!r} as of the newest decision; it has {labels}. "
            f"trimtab front {study.path} prints it"
        )
    return Command("choose", who, why, own.theta, own.objective)


def at_stake(study: Study) -> str:
    """What a choice ends: the vector under test or promoted, as "c281, confirmed, in ramp at 50%"; "" without one.

    Raises what `offered` raises, but `NoSuchOffer`.
    """
    with Journal.read_only(study.journal) as journal, journal.snapshot():
        state = restored(journal)
    if state is None:
        return ""
    carry, deal = state.experiment.carry, state.experiment.deals[state.experiment.carry.deal]
    if carry.candidate is None or carry.stage not in TESTS:
        return ""
    name = carry.candidate.arm
    held = deal.names.index(name) if name in deal.names else -1  # chosen or approved since the last decision
    at = f" at {np.mean(deal.buckets == held):.0%}" if held > 0 else ""
    awaits = "confirmed, awaits approval" if carry.awaiting_approval else "in its confirm test"
    return f"{name}, " + {"confirm": awaits, "ramp": "confirmed, in ramp", "hold": "promoted, held"}[carry.stage] + at


def consequences(study: Study, order: Command, ended: str) -> list[str]:
    """What a choice does, for people. `ended`: of `at_stake`, before it was given."""
    ends = [f"ends: {ended}"] if ended else []
    if order.theta is None or order.objective is None:
        return [*ends, "goes on under the study file's own objective"]
    names = [weight.name for weight in study.plan.weights]
    return [*ends, f"puts to the test: {thetas(order.theta, names)}, for {terms(order.objective)}"]


def lines(study: Study, found: Tradeoffs, stake: str = "") -> list[str]:
    """A front as text. `stake`: of `at_stake`."""
    names = ", ".join(weight.name for weight in study.plan.weights)
    if not found.offers:
        return [
            f"study {study.plan.study}, decided through {in_utc(found.decided_through_ms)}: no vector is known to gain "
            "anything inside the guardrails yet"
        ]
    return [
        f"study {study.plan.study}, decided through {in_utc(found.decided_through_ms)}; weights: {names}",
        *(line for offer in found.offers for line in _told(offer)),
        *(() if found.now is None else _told(found.now)),
        *([f"now: {stake}; choosing ends that"] if stake else []),
        f"trimtab choose {study.path} N puts a vector to the test and goes on under the objective it is the best for",
    ]


def _told(offer: Offer) -> Iterator[str]:
    gains = ", ".join(f"{name} {spread(gain, offer.sd[name])}" for name, gain in offer.gain.items())
    why = "chosen for" if offer.label == NOW else "best for"  # since then another may have become the best
    yield f"{offer.label:>7}  {gains}, P(keeps every guardrail) {offer.p_feasible:.0%}"
    yield f"         {thetas(offer.theta)}; {why} {terms(offer.objective)}"
