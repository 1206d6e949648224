"""How a person's order reaches a study: by its daemon's interface, else by the journal's inbox."""

import os
import time
from collections.abc import Callable

import msgspec

from controller.core.operate import Command
from controller.shell.client import TOKEN, Refused, Remote, Unreachable, of_journal
from controller.shell.config import Study
from controller.shell.journal import Journal
from controller.shell.messages import Order
from controller.shell.named_files import require_journal_place
from controller.shell.story import answer

WAITS = "waits in the inbox: no daemon has taken it yet; the next one that runs will"
ELSEWHERE = (409, 503)  # statuses of a daemon that has taken the address over, and of one that is too busy to listen
ASK_S = 0.05  # how often the inbox is asked


class Given(msgspec.Struct, frozen=True):
    """What became of an order."""

    applied: bool
    said: str


def to_address(url: str, command: Command, wait_s: float, study: str | None = None) -> Given:
    """Give an order to the daemon at an address, of `study` where that is known; wait so long for what it says.

    Raises:
        Unreachable: nothing answers there.
        Refused: the interface says no, or the order lacks its reason, or names somebody else than the token does.
    """
    return _by_interface(Remote(url, os.environ), command, wait_s, study)


def to_study(study: Study, command: Command, user: str, wait_s: float, told: Callable[[str], None]) -> Given:
    """Give an order to a study: by the interface where there is a token and a daemon answers, else by the inbox.

    Args:
        study: whose journal is on this machine.
        command: with an empty `who` for whoever it is.
        user: who it is, where no token says so.
        wait_s: how long to wait for what the daemon says.
        told: is told why the inbox is used in place of the interface.

    Raises what `to_address`, `require_journal_place` and `Journal.open` raise, but `Unreachable`.
    """
    with Journal.read_only(study.journal) as journal:
        remote = of_journal(journal)
    if remote is not None and remote.has_token and command.command != "choose":
        try:
            return _by_interface(remote, command, wait_s, study.plan.study)
        except (Unreachable, Refused) as error:
            if isinstance(error, Refused) and error.status not in ELSEWHERE:
                raise
            told(f"{error}; leaving it in the journal")
    return _by_inbox(study, msgspec.structs.replace(command, who=command.who or user), wait_s)


def _by_interface(remote: Remote, command: Command, wait_s: float, study: str | None) -> Given:
    if not command.why.strip():
        raise Refused('the admin interface asks for a reason: --why "..."')
    if command.who:
        raise Refused(f"--who is not for the admin interface, which knows you by the token in {TOKEN}")
    body = {"command": command.command, "why": command.why, "candidate": command.candidate, "study": study}
    state = remote.order(msgspec.convert(body, Order), wait_s)
    return Given(state.applied, state.said or WAITS)


def _by_inbox(study: Study, command: Command, wait_s: float) -> Given:
    require_journal_place(study)
    deadline_s = time.monotonic() + wait_s
    with Journal.open(study.journal, None) as journal:
        id_ = journal.send(command, time.time_ns() // 1_000_000)
        while (seq := journal.applied(id_)) is None and time.monotonic() < deadline_s:
            time.sleep(ASK_S)
        return Given(seq is not None, WAITS if seq is None else answer(journal, seq))
