"""A study's journal, told to a person."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from controller.shell.journal import Journal

_TOLD = (
    "study_started",
    "plan_changed",
    "daemon_started",
    "stage_changed",
    "guardrail_tripped",
    "operator",
    "offsets_lost",
)


def current(path: Path) -> dict[str, Any]:
    """Where the study stands: the newest entry that carries its choices, as plain data."""
    with Journal.read_only(path) as journal:
        carry: dict[str, Any] = {}
        waiting = len(journal.inbox())
        windows = 0
        for entry in journal.entries():
            carry = entry.body.get("carry", carry)
            windows += entry.kind == "decided"
        head, study = journal.head(), journal.study()
    shown = ("stage", "reason", "epoch", "version", "decided_through_ms", "sealed_through_ms", "awaiting_approval")
    return {
        "study": study,
        "journal": str(path),
        "entries": head.seq,
        "head": head.hash.hex(),
        "windows_decided": windows,
        "commands_waiting": waiting,
        **{name: carry.get(name) for name in shown},
        "candidate": carry.get("candidate"),
        "pick": carry.get("pick"),
        "banned": len(carry.get("banned", ())),
    }


def lines(found: dict[str, Any]) -> list[str]:
    """`current` as text."""
    told = [
        f"study {found['study']}: {found['stage']} ({found['reason']})",
        f"decided through {moment(found['decided_through_ms'])}, {found['windows_decided']} windows, "
        f"table version {found['version']}",
    ]
    if found["candidate"]:
        told.append(f"{found['stage']} vector {found['candidate']['arm']}: {_thetas(found['candidate']['theta'])}")
    if found["pick"]:
        pick = found["pick"]
        told.append(
            f"best known: {_thetas(pick['theta'])}, expected gain {pick['gain_mean']:+.2%} +- {pick['gain_sd']:.2%}, "
            f"P(keeps every guardrail) {pick['p_feasible']:.0%}"
        )
    if found["awaiting_approval"]:
        told.append("an operator's approval is awaited: trimtab approve STUDY.toml")
    if found["commands_waiting"]:
        told.append(f"{found['commands_waiting']} commands wait for a daemon")
    return told


def timeline(path: Path) -> list[dict[str, Any]]:
    """What happened, in order: starts, stages, guardrails, commands."""
    with Journal.read_only(path) as journal:
        return [
            {"seq": entry.seq, "at": moment(entry.at_ms), "kind": entry.kind, "what": _what(entry.kind, entry.body)}
            for entry in journal.entries(kinds=_TOLD)
        ]


def moment(ms: int | None) -> str:
    """A time for people, UTC; "nothing yet" where there is none."""
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S}" if ms else "nothing yet"


def _what(kind: str, body: dict[str, Any]) -> str:
    match kind:
        case "stage_changed":
            return f"{body['from']} -> {body['to']}: {body['why']}"
        case "guardrail_tripped":
            return f"guardrail on {body['metric']} tripped by {body['arm']}: {body['change']:+.2%}"
        case "operator":
            return f"{body['order']['command']} by {body['order']['who']}: {body['said']}"
        case "daemon_started":
            return f"daemon started, epoch {body['epoch']}"
        case "offsets_lost":
            return f"partition {body['partition']}: records {body['asked']} to {body['earliest']} are gone"
        case _:
            return f"plan {body['digest'][:12]}"


def _thetas(theta: dict[str, list[float]]) -> str:
    return "; ".join(f"{segment} ({', '.join(f'{w:.4g}' for w in weights)})" for segment, weights in theta.items())
