"""A study's journal, told to a person."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from controller.shell.effects import Z95
from controller.shell.journal import Journal

_CARRYING = ("daemon_started", "decided", "sealed", "operator", "breaker_tripped")  # entries that hold the choices
_ANSWERS = ("operator", "operator_refused")


def current(path: Path) -> dict[str, Any]:
    """Where the study stands: the newest entry that carries its choices, as plain data."""
    with Journal.read_only(path) as journal, journal.snapshot():
        last = journal.newest(_CARRYING)
        carry: dict[str, Any] = {} if last is None else last.body["carry"]
        waiting = len(journal.inbox())
        decided = journal.count("decided")
        head, study = journal.head(), journal.study()
    shown = ("stage", "reason", "epoch", "version", "decided_through_ms", "sealed_through_ms", "awaiting_approval")
    return {
        "study": study,
        "journal": str(path),
        "entries": head.seq,
        "head": head.hash.hex(),
        "windows_decided": decided,
        "commands_waiting": waiting,
        **{name: carry.get(name) for name in shown},
        "candidate": carry.get("candidate"),
        "objective": carry.get("objective"),
        "pick": carry.get("pick"),
        "noise": carry.get("noise", []),
        "notice": carry.get("notice", ""),
        "banned": len(carry.get("banned", ())),
    }


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
        f"decided through {moment(found['decided_through_ms'])}, {found['windows_decided']} windows, "
        f"table version {found['version']}",
    ]
    if found["candidate"]:
        told.append(f"{found['stage']} vector {found['candidate']['arm']}: {thetas(found['candidate']['theta'])}")
    if found["pick"]:
        pick = found["pick"]
        told.append(
            f"best known: {thetas(pick['theta'])}, expected gain {spread(pick['gain_mean'], pick['gain_sd'])}, "
            f"P(keeps every guardrail) {percent_of(pick['p_feasible'], '', 0)}"
        )
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
        f"decided through {moment(seen['decided_through_ms'])}, table version {seen['version']}",
    ]
    if seen["candidate"]:
        told.append(f"{seen['stage']} vector {seen['candidate']['arm']}: {thetas(seen['candidate']['theta'])}")
    if seen["awaiting_approval"]:
        told.append("an operator's approval is awaited: trimtab approve, or trimtab reject")
    if seen["notice"]:
        told.append(f"notice: {seen['notice']}")
    return told + pulse(seen)


def pulse(seen: dict[str, Any]) -> list[str]:
    """What only a running daemon knows."""
    until = seen["valid_until_ms"]
    shares = ", ".join(f"{arm['arm']} {arm['share']:.0%}" for arm in seen["arms"])
    if until is not None and until < seen["now_ms"]:
        shares = f"the table expired at {moment(until)} UTC: clients serve {seen['fallback']}"
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


def thetas(theta: Mapping[str, Sequence[float]]) -> str:
    """A vector for people: "all (1, 2.5, 0.1)"."""
    return "; ".join(f"{segment} ({', '.join(f'{w:.4g}' for w in weights)})" for segment, weights in theta.items())


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
}
