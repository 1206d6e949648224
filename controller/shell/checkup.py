"""What `trimtab check` finds: in the study file, in its journal, and of the services that it names."""

from collections.abc import Sequence

import msgspec

from controller.shell import named_files
from controller.shell.advice import Advice, advice, told
from controller.shell.config import Study
from controller.shell.journal_file import JournalError
from controller.shell.limits import words
from controller.shell.probe import Probed, probe
from controller.shell.recorder import PlanRefused, edits, topic


class Found(msgspec.Struct, frozen=True):
    """`warnings`: of the file (see `Study`) and of what the services hold. `guardrails`: in words.

    `faults`: what is wrong, by part. `demands`: see `Study`. `edits`: what the next start changes.
    """

    study: str
    guardrails: tuple[str, ...]
    warnings: tuple[str, ...]
    faults: dict[str, str]
    edits: tuple[str, ...]
    demands: tuple[str, ...]
    seen: Advice


def checkup(study: Study, offline: bool, now_ms: int) -> Found:
    """`offline`: asks no service. `now_ms`: the wall clock."""
    edited, refused = _edits(study)
    asked = Probed({}, ()) if offline else probe(study, now_ms)
    faults = asked.faults | refused | named_files.faults(study)
    room = named_files.little_room(study)
    warnings = (*study.warnings, *(() if room is None else (room,)), *asked.warnings)
    rails = tuple(words(rail) for rail in study.plan.guardrails)
    return Found(study.plan.study, rails, warnings, faults, edited, study.demands, advice(study))


def lines(study: Study, found: Found, offline: bool) -> list[str]:
    """For people."""
    plan = study.plan
    return [
        f"study {plan.study}: {len(plan.weights)} weights, {len(plan.metrics)} metrics, "
        f"{len(plan.guardrails)} guardrails",
        *(f"guardrail: {guardrail}" for guardrail in found.guardrails),
        *(f"warning: {warning}" for warning in found.warnings),
        *(f"{part}: {fault}" for part, fault in found.faults.items()),
        *(f"at the next start changes {edit}" for edit in found.edits),
        *(f"asked for: {demand}" for demand in found.demands),
        *told(found.seen),
        _closing(tuple(found.faults), bool(found.demands), offline),
    ]


def _closing(faulty: Sequence[str], lacking: bool, offline: bool) -> str:
    """The last word, which is of the exit status."""
    lacks = "the file lacks what is asked for"
    if faulty:
        count = f"{len(faulty)} fault{'s' if len(faulty) > 1 else ''}: {', '.join(faulty)}"
        return f"{count}; {lacks}" if lacking else count
    return (lacks if lacking else "the file is sound") + ("" if offline else ", Kafka and Redis answer")


def _edits(study: Study) -> tuple[tuple[str, ...], dict[str, str]]:
    """What the study file changes of a study that runs, and a fault where its journal cannot follow."""
    try:
        return edits(study.plan, study.journal, study.unwritten, topic(study.kafka.topic)), {}
    except (JournalError, PlanRefused) as error:
        return (), {"journal": str(error).removeprefix(f"journal {study.journal.absolute()}: ")}
