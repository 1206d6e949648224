"""`trimtab front` and `choose`: the front of a study, from its journal."""

from collections.abc import Iterator

from controller.core import replan
from controller.core.operate import Command
from controller.core.step import seeded
from controller.core.tradeoffs import NOW, Offer, Tradeoffs, tradeoffs
from controller.shell.config import Study
from controller.shell.journal import Journal
from controller.shell.recorder import last_plan, restored
from controller.shell.story import moment, spread, terms, thetas

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
    if before is None or state is None or not state.control.carry.decided_through_ms:
        raise NoSuchOffer(f"journal {study.journal}: nothing was decided yet, so there is nothing to choose from")
    control = replan.follow(before, study.plan, state.control, 0)
    rng = seeded(study.plan.seed)(control.carry.decided_through_ms)
    return tradeoffs(study.plan, control, state.windows.cells, rng)


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


def lines(study: Study, found: Tradeoffs) -> list[str]:
    """A front as text."""
    names = ", ".join(weight.name for weight in study.plan.weights)
    if not found.offers:
        return [
            f"study {study.plan.study}, decided through {moment(found.decided_through_ms)}: no vector is known to gain "
            "anything inside the guardrails yet"
        ]
    return [
        f"study {study.plan.study}, decided through {moment(found.decided_through_ms)}; weights: {names}",
        *(line for offer in found.offers for line in _told(offer)),
        *(() if found.now is None else _told(found.now)),
        f"trimtab choose {study.path} N puts a vector to the test and goes on under the objective it is the best for",
    ]


def _told(offer: Offer) -> Iterator[str]:
    gains = ", ".join(f"{name} {spread(gain, offer.sd[name])}" for name, gain in offer.gain.items())
    why = "chosen for" if offer.label == NOW else "best for"  # since then another may have become the best
    yield f"{offer.label:>7}  {gains}, P(keeps every guardrail) {offer.p_feasible:.0%}"
    yield f"         {thetas(offer.theta)}; {why} {terms(offer.objective)}"
