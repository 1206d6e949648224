"""What an operator types to steer a study: each order is entered in the ledger, or refused."""

import argparse
import getpass
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from controller.cli import EITHER, FAILED, Run, command_parser, either, is_url, require_own_journal, seconds, show
from controller.core.operate import Command
from controller.shell import config
from controller.shell.config import Study


def pause(argv: list[str]) -> int:
    """Put all traffic on control until `resume`."""
    return _send(pause, argv)


def resume(argv: list[str]) -> int:
    """Go on after `pause`, `rollback` or a freeze."""
    return _send(resume, argv)


def rollback(argv: list[str]) -> int:
    """Put all traffic on control and never deal the candidate again."""
    return _send(rollback, argv)


def approve(argv: list[str]) -> int:
    """Let a confirmed vector be ramped up."""
    return _send(approve, argv)


def reject(argv: list[str]) -> int:
    """Send a confirmed vector that awaits approval back to explore, and never deal it again."""
    return _send(reject, argv)


def front(argv: list[str]) -> int:
    """Show the best trade-offs between a study's objectives."""
    parser = command_parser(front, json_too=True)
    parser.add_argument("study", type=Path, metavar="STUDY.toml")
    args = parser.parse_args(argv)
    from controller.shell import fingerprint, offers

    fingerprint.single_threaded()  # so that `choose` finds the very same vectors
    study = config.load(args.study)
    require_own_journal(study)
    found = offers.offered(study)
    stake = offers.at_stake(study)
    show(args.json, msgspec.to_builtins(found) | {"at_stake": stake}, offers.lines(study, found, stake))
    return 0


def choose(argv: list[str]) -> int:
    """Put a vector of the front to the test, and go on under the objective it is the best for."""
    return _send(choose, argv)


def _send(order: Run, argv: list[str]) -> int:
    verb: Any = order.__name__
    parser = command_parser(order, json_too=True)
    parser.add_argument("study", type=either, metavar="STUDY", help="its file" if verb == "choose" else EITHER)
    if verb == "choose":
        parser.add_argument("point", metavar="N", help="its number or label in `trimtab front`; "
                            "file: back to the study file's own objective")  # fmt: skip
    if verb in ("approve", "reject"):
        parser.add_argument("--candidate", metavar="ARM", help="refused where another vector awaits approval")
    parser.add_argument("--why", default="", help="for the ledger; the admin interface asks for it")
    parser.add_argument(
        "--who", default="", help="for the ledger (your user name); the admin interface knows it by the token"
    )
    parser.add_argument("--wait", type=seconds, default=10.0, metavar="10s", help="how long to wait for the daemon")
    args = parser.parse_args(argv)
    if verb == "choose" and is_url(args.study):
        parser.error("argument STUDY: choose looks into the journal: name the study file")
    from controller.shell import orders

    # What a terminal of another encoding sent must not keep a pause from being given.
    who, why = (text.encode(errors="replace").decode() for text in (args.who, args.why))
    command = Command(verb, who, why, candidate=_named(parser, getattr(args, "candidate", None)))
    if is_url(args.study):
        return _answered(args, verb, orders.to_address(args.study, command, args.wait))
    study = config.load(Path(args.study))
    require_own_journal(study)
    does: list[str] = []
    if verb == "choose":
        command, does = _chosen(study, args.point, command)
    return _answered(args, verb, orders.to_study(study, command, _user(), args.wait, _tell(verb)), does)


def _named(parser: argparse.ArgumentParser, candidate: str | None) -> str | None:
    if candidate is not None and candidate != candidate.encode(errors="replace").decode():
        parser.error(f"argument --candidate: found {candidate!r}; expected a name in UTF-8")
    return candidate


def _tell(verb: str) -> Callable[[str], None]:
    return lambda said: print(f"trimtab {verb}: {said}", file=sys.stderr)


def _answered(args: argparse.Namespace, verb: str, found: Any, does: Sequence[str] = ()) -> int:
    refused = found.said.startswith("refused")
    does = () if refused else does
    told = {"command": verb, "said": found.said, "applied": found.applied} | ({"does": list(does)} if does else {})
    show(args.json, told, [f"{verb}: {found.said}", *(f"  {line}" for line in does)])
    return 0 if found.applied and not refused else FAILED


def _chosen(study: Study, point: str, order: Command) -> tuple[Command, list[str]]:
    from controller.shell import fingerprint, offers

    fingerprint.single_threaded()
    chosen = offers.choice(study, point, order.who, order.why)
    return chosen, offers.consequences(study, chosen, offers.at_stake(study))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that has no name
        return f"uid {os.getuid()}"
