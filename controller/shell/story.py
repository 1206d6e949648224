"""A study's journal, told to a person."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from controller.core.experiment import tuned
from controller.core.plan import Plan
from controller.core.rollout import TESTS
from controller.shell.effects import Z95, measured
from controller.shell.journal import Journal
from controller.shell.journal_file import JournalRefused
from controller.shell.recorder import restored

_ISSUING = ("daemon_started", "decided", "operator", "breaker_tripped")  # entries that may bring a table
_CARRYING = (*_ISSUING, "sealed")  # entries that hold the choices
_PLANNING = ("study_started", "plan_changed")
_ANSWERS = ("operator", "operator_refused")


class Table(msgspec.Struct, frozen=True):
    """What a published table says of its own end."""

    version: int
    valid_until_ms: int | None  # from then on clients serve the fallback
    fallback: str  # the arm


def current(path: Path) -> dict[str, Any]:
    """Where the study stands: the newest entry that carries its choices, as plain data."""
    with Journal.read_only(path) as journal, journal.snapshot():
        last = journal.newest(_CARRYING)
        carry: dict[str, Any] = {} if last is None else last.body["carry"]
        waiting = len(journal.inbox())
        decided = journal.count("decided")
        newest = journal.newest(("decided",))
        head, study = journal.head(), journal.study()
        table, clock, weights = _table(journal), _clock(journal), _weights(journal)
        found, untold = _measured(journal) if carry.get("candidate") else (None, "")
    shown = ("stage", "reason", "epoch", "version", "decided_through_ms", "sealed_through_ms", "awaiting_approval")
    return {
        "study": study,
        "journal": str(path),
        "entries": head.seq,
        "head": head.hash.hex(),
        "windows_decided": decided,
        "commands_waiting": waiting,
        "weights": weights,
        **{name: carry.get(name) for name in shown},
        "decision": "" if newest is None else newest.body.get("why", ""),
        "table": table,
        "clock": clock,
        "candidate": carry.get("candidate"),
        "measured": found,
        "untold": untold,
        "steps": carry.get("shares", []),
        "objective": carry.get("objective"),
        "pick": carry.get("pick"),
        "noise": carry.get("noise", []),
        "notice": carry.get("notice", ""),
        "banned": len(carry.get("banned", ())),
    }


def _table(journal: Journal) -> dict[str, Any] | None:
    """The journal's last table: of the newest entry that brought one."""
    entry = journal.newest(_ISSUING)
    while entry is not None and not entry.body.get("table"):
        entry = journal.newest(_ISSUING, through=entry.seq - 1)
    if entry is None:
        return None
    table: dict[str, Any] = msgspec.to_builtins(msgspec.json.decode(entry.body["table"], type=Table))
    return table


def _clock(journal: Journal) -> str:
    last = journal.newest(("daemon_started",))
    return "" if last is None else str(last.body.get("about", {}).get("clock", ""))


def _weights(journal: Journal) -> list[dict[str, Any]]:
    """The study's weights, as `board.StudyView` has them; none before a daemon has run."""
    planned = journal.newest(_PLANNING)
    return [] if planned is None else list(planned.body["plan"]["weights"])


def _measured(journal: Journal) -> tuple[dict[str, Any] | None, str]:
    """What is measured on live traffic, as `board.StudyView` has it, or why that cannot be read."""
    planned = journal.newest(_PLANNING)
    try:
        state = restored(journal)
        plan = None if planned is None else msgspec.convert(planned.body["plan"], Plan)
    except (JournalRefused, msgspec.ValidationError) as error:
        return None, str(error)
    if plan is None or state is None:
        return None, ""
    seen = measured(tuned(plan, state.experiment.carry), state.experiment, state.windows.cells)
    return None if seen is None else msgspec.to_builtins(seen), ""


def answer(journal: Journal, seq: int) -> str:
    """What was said to the command that took effect with entry `seq`, or with one before it in its transaction."""
    entry = journal.newest(_ANSWERS, through=seq)
    return "" if entry is None else str(entry.body["said"])


def lines(found: dict[str, Any]) -> list[str]:
    """`current` as text."""
    if found["stage"] is None:
        return [f"study {found['study']}: no daemon has run yet"]
    told = [
        f"study {found['study']}: {found['stage']} ({found['reason']})",
        f"decided through {in_utc(found['decided_through_ms'])}, {found['windows_decided']} windows, "
        f"table version {found['version']}",
    ]
    if found["candidate"]:
        told.append(f"{found['stage']} vector {found['candidate']['arm']}: {_vector(found, found['candidate'])}")
        told += under_test(found)
    told += _decision(found)
    if found["pick"]:
        told.append(_best(found))
    if found["objective"]:
        told.append(f"objective by an operator's choice: {terms(found['objective'])}")
    if found["awaiting_approval"]:
        told.append("an operator's approval is awaited: trimtab approve STUDY.toml")
    if found["noise"]:
        each = ", ".join(f"{n['metric']} {n['arm_se']:.2%} / {n['test_se']:.2%}" for n in found["noise"])
        told.append(f"noise, as s.e. of an arm in a window / of the confirm test: {each}")
    if found["notice"]:
        told.append(f"notice: {found['notice']}")
    if found["commands_waiting"]:
        told.append(f"commands that wait for a daemon: {found['commands_waiting']}")
    return told


def live(seen: dict[str, Any]) -> list[str]:
    """A daemon's own view (`board.StudyView` as JSON) as text."""
    told = [
        f"study {seen['study']}: {seen['stage']} ({seen['reason']})",
        f"decided through {in_utc(seen['decided_through_ms'])}, table version {seen['version']}",
    ]
    if seen["candidate"]:
        told.append(f"{seen['stage']} vector {seen['candidate']['arm']}: {_vector(seen, seen['candidate'])}")
        told += under_test(seen)
    told += _decision(seen)
    if seen["awaiting_approval"]:
        told.append("an operator's approval is awaited: trimtab approve, or trimtab reject")
    if seen["notice"]:
        told.append(f"notice: {seen['notice']}")
    return told + pulse(seen)


def _vector(seen: Mapping[str, Any], vector: Mapping[str, Any]) -> str:
    """A candidate or pick. `seen`: of `current` or, as JSON, `board.StudyView`."""
    return thetas(vector["theta"], [weight["name"] for weight in seen["weights"]])


def _decision(seen: Mapping[str, Any]) -> list[str]:
    """The newest decision, unless it is why the stage is what it is. `seen`: as for `under_test`."""
    why = seen.get("decision", "")  # none of a daemon of before
    why = why.removesuffix(f"; {seen['notice']}")  # which has a line of its own
    return [f"newest decision: {why}"] if why not in ("", seen["reason"]) else []


def _best(found: Mapping[str, Any]) -> str:
    """What is believed of the best vector; the gain of one under test stands above."""
    pick, candidate = found["pick"], found["candidate"]
    which = (
        "" if candidate is None else ", the same vector" if pick["theta"] == candidate["theta"] else ", another vector"
    )
    return (
        f"best known{which}: {_vector(found, pick)}, expected gain {spread(pick['gain_mean'], pick['gain_sd'])}, "
        f"P(keeps every guardrail) {percent_of(pick['p_feasible'], '', 0)}"
    )


def under_test(seen: Mapping[str, Any]) -> list[str]:
    """What live traffic shows of a candidate under test. `seen`: of `current` or, as JSON, `board.StudyView`."""
    if seen["stage"] not in TESTS:
        return []
    name, found = seen["candidate"]["arm"], seen["measured"]
    if found is None or found["arm"] != name:
        return [_not_measured(name, seen)]
    effects = found["effects"]
    gain = f"{name} gains {interval(effects['gain'])} in the objective, against control ({found['events']:,} events)"
    return [gain, *map(_guarded, effects["margins"])] if effects["margins"] else [gain, "the study has no guardrail"]


def _not_measured(name: str, seen: Mapping[str, Any]) -> str:
    if seen.get("untold"):
        return f"what {name} gains is not told here: {seen['untold']}"
    if not seen["steps"]:
        return f"nothing is measured of {name} yet"
    last = seen["steps"][-1]
    gained = f"{name} gained {spread(last['gain'], last['se'])} in the objective at {last['share']:.0%} of the traffic"
    return f"{gained}; nothing is measured of it at the present share yet"


def _guarded(rail: Mapping[str, Any]) -> str:
    state = {"kept": "kept", "unsure": "not sure", "broken": "broken"}[rail["state"]]
    side = "at least" if rail["side"] == "min" else "at most"
    return f"guardrail {rail['metric']} ({side} {rail['limit']:+.2%}): {state}, {interval(rail['effect'])}"


def silence(found: Mapping[str, Any], why: str, now_ms: int) -> list[str]:
    """What is known where no daemon tells it: why none does, and what clients serve by the journal's last table."""
    table = found["table"]
    if table is None or table["valid_until_ms"] is None or found["clock"] != "wall":
        return [why]
    if table["valid_until_ms"] < now_ms:
        return [why, _expired(table)]
    return [why, f"the table holds until {in_utc(table['valid_until_ms'])}, then clients serve {table['fallback']}"]


def _expired(table: Mapping[str, Any]) -> str:
    return f"the table expired at {in_utc(table['valid_until_ms'])}: clients serve {table['fallback']}"


def pulse(seen: dict[str, Any]) -> list[str]:
    """What only a running daemon knows."""
    until = seen["valid_until_ms"]
    shares = ", ".join(f"{arm['arm']} {arm['share']:.0%}" for arm in seen["arms"])
    if until is not None and until < seen["now_ms"]:
        shares = _expired(seen)
    faults = "; ".join(f"{part}: {fault}" for part, fault in sorted(seen["faults"].items()))
    return [
        f"the daemon answers: {f'not ready: {faults}' if faults else 'ready'}, {seen['behind']} records behind",
        f"traffic: {shares}",
    ]


def timeline(path: Path) -> list[dict[str, Any]]:
    """What happened, in order: starts, stages, guardrails, commands."""
    with Journal.read_only(path) as journal:
        return [
            {
                "seq": entry.seq,
                "at": _at(entry.at_ms),
                "kind": entry.kind,
                "what": SENTENCES[entry.kind](entry.body),
            }
            for entry in journal.entries(kinds=SENTENCES)
        ]


def moment(ms: int | None) -> str:
    """A time for people, UTC; "nothing yet" where there is none."""
    if not ms:
        return "nothing yet"
    try:
        return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"
    except (OverflowError, ValueError):  # events name any time, also one that no calendar has
        return f"{ms} ms"


def in_utc(ms: int | None) -> str:
    """`moment` with its zone."""
    return f"{moment(ms)} UTC" if ms else moment(ms)


def thetas(theta: Mapping[str, Sequence[float]], names: Sequence[str] = ()) -> str:
    """A vector for people: "all (p_click 1, p_watch 2.5)"; without names of its weights "all (1, 2.5)"."""
    return "; ".join(f"{segment} ({_values(weights, names)})" for segment, weights in theta.items())


def _values(weights: Sequence[float], names: Sequence[str]) -> str:
    if not names:
        return ", ".join(f"{value:.4g}" for value in weights)
    return ", ".join(f"{name} {value:.4g}" for name, value in zip(names, weights, strict=True))


def terms(objective: Mapping[str, float]) -> str:
    """An objective for people: "+1 watch +0.3 shares"."""
    return " ".join(f"{coefficient:+.3g} {metric}" for metric, coefficient in objective.items())


def _at(ms: int) -> str:
    return moment(ms) if ms else "before any event"  # a run on the events' clock has no time until then


def _order(order: dict[str, Any]) -> str:
    why = f" ({order['why']})" if order.get("why") else ""
    goal = ""
    if order["command"] == "choose":
        chosen = order.get("objective")
        goal = f", for {terms(chosen)}" if chosen else ", back to the study file's objective"
    return f"{order['command']} by {order['who']}{why}{goal}"


def _lost(body: dict[str, Any]) -> str:
    log = f"the log holds {body['earliest']} to {body['latest']}"
    return f"partition {body['partition']}: records were lost: offset {body['asked']} was asked for, {log}"


def percent_of(value: float | None, sign: str = "+", digits: int = 2) -> str:
    """A share of 1 as a percentage; "unknown" where there is none."""
    return "unknown" if value is None else f"{value:{sign}.{digits}%}"  # what is not finite is null in the ledger


def spread(mean: float | None, sd: float | None) -> str:
    """What is expected, as in "+8.71% (95 % interval +4.26% to +13.16%)"."""
    if mean is None or sd is None:
        return f"{percent_of(mean)} (how surely is unknown)"
    return f"{mean:+.2%} (95 % interval {mean - Z95 * sd:+.2%} to {mean + Z95 * sd:+.2%})"


def interval(effect: Mapping[str, float | None]) -> str:
    """An `effects.Effect` as JSON, told as `spread` tells it."""
    change, low, high = effect["change"], effect["low"], effect["high"]
    if change is None or low is None or high is None:
        return "an amount that cannot be measured"
    return f"{change:+.2%} (95 % interval {low:+.2%} to {high:+.2%})"


SENTENCES: dict[str, Callable[[dict[str, Any]], str]] = {
    "study_started": lambda body: f"study started, plan {body['digest'][:12]}",
    "plan_changed": lambda body: f"plan changed ({', '.join(body['changed'])}), now {body['digest'][:12]}",
    "daemon_started": lambda body: f"daemon started, epoch {body['epoch']}",
    "stage_changed": lambda body: f"{body['from']} -> {body['to']}: {body['why']}",
    "guardrail_tripped": lambda body: (
        f"guardrail on {body['metric']} tripped by {body['arm']}: {percent_of(body['change'])}"
    ),
    "operator": lambda body: _order(body["order"]) + f": {body['said']}",
    "operator_refused": lambda body: f"a command was {body['said']}",
    "offsets_lost": _lost,
    "topic_replaced": lambda body: (
        f"another topic under the same name: id {body['before']} before, {body['topic']} now"
    ),
}
