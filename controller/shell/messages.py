"""What the admin interface and its callers say to each other, beside the snapshots of `board`."""

from typing import Annotated, Literal

import msgspec

from controller.shell.access import Role

Why = Annotated[str, msgspec.Meta(min_length=1, max_length=500, pattern=r"\S", description="for the ledger")]
Verb = Literal["pause", "resume", "rollback", "approve", "reject"]


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An order to the study. `candidate`: the vector that approve or reject means, lest another one is answered.

    `study`: the study that is meant, lest a daemon of another one obeys.
    """

    command: Verb
    why: Why
    candidate: str | None = None
    study: str | None = None


class OrderState(msgspec.Struct, frozen=True):
    """What became of an order. Until it is `applied` it waits in the journal, where it outlives the daemon."""

    id: int
    applied: bool
    said: str  # the study's answer; "refused: ..." when nothing was changed; "" while it waits
    entry: int | None  # the ledger's last entry of the transaction that it took effect in


class Me(msgspec.Struct, frozen=True):
    """Who the caller is."""

    name: str
    role: Role


class Fault(msgspec.Struct, frozen=True):
    """Why a request was refused."""

    error: str


class Readiness(msgspec.Struct, frozen=True):
    """Whether the daemon works, and what keeps it, by part."""

    ready: bool
    faults: dict[str, str]


class Live(msgspec.Struct, frozen=True):
    """The process answers."""

    live: bool
