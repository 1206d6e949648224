"""The value model's weights: from a file, or live from a study's assignment in Redis (design, 3.2)."""

import math
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from nas.schema import DataError
from nas.value import Form, ValueModel

ALL, CONTROL = "all", "control"
PASSWORD = "TRIMTAB_REDIS_PASSWORD"  # of the environment, as for the daemon
TIMEOUT_S = 5.0


class _Arm(msgspec.Struct, frozen=True):
    arm: str
    theta: dict[str, tuple[float, ...]]


class _Assignment(msgspec.Struct, frozen=True):
    """What is read of a table; other keys are the serving client's."""

    form: Form
    weights: tuple[str, ...]
    arms: tuple[_Arm, ...]


class _Plain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of weights by head."""

    weights: dict[str, float]
    form: Form = "linear"


def from_weights(weights: Mapping[str, float], form: Form, heads: tuple[str, ...]) -> ValueModel:
    """Weights by head; a head without one counts 0.

    Raises:
        DataError: a weight is of no head, or none is left.
    """
    unknown = sorted(set(weights) - set(heads))
    if unknown:
        raise DataError(f"value: there is no head {unknown[0]!r}; heads are {', '.join(heads)}")
    endless = [head for head, weight in weights.items() if not math.isfinite(weight)]
    if endless:
        raise DataError(f"value: the weight of {endless[0]!r} is {weights[endless[0]]}; expected a finite number")
    if not any(weights.values()):
        raise DataError("value: every weight is 0: nothing would be worth anything")
    return ValueModel(form, tuple(float(weights.get(head, 0.0)) for head in heads))


def from_file(path: Path, heads: tuple[str, ...]) -> ValueModel:
    """From JSON: {"form": "linear", "weights": {"click": 1.0}}.

    Raises:
        DataError: the file is missing or something else.
    """
    try:
        plain = msgspec.json.decode(path.read_bytes(), type=_Plain)
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file") from error
    except msgspec.MsgspecError as error:
        raise DataError(f"{path}: no weights by head: {error}") from error
    return from_weights(plain.weights, plain.form, heads)


def from_assignment(
    raw: bytes, heads: tuple[str, ...], names: Mapping[str, str], arm: str = CONTROL, segment: str = ALL
) -> ValueModel:
    """An arm's weights in a published table. `names` maps a weight's name to a head; other weights are left out.

    Raises:
        DataError: no table, no such arm, or a name that is not in it.
    """
    try:
        table = msgspec.json.decode(raw, type=_Assignment)
    except msgspec.MsgspecError as error:
        raise DataError(f"the assignment cannot be read: {error}") from error
    arms = {one.arm: one for one in table.arms}
    if arm not in arms:
        raise DataError(f"value.arm: found {arm!r}; the assignment has {', '.join(arms)}")
    segments = sorted({name for one in table.arms for name in one.theta} - {ALL})
    if segment != ALL and segments and segment not in segments:
        raise DataError(f"value.segment: found {segment!r}; the assignment has {', '.join((ALL, *segments))}")
    values = arms[arm].theta.get(segment, arms[arm].theta.get(ALL, ()))
    if len(values) != len(table.weights):
        raise DataError(f"the assignment gives {arm!r} {len(values)} values for its {len(table.weights)} weights")
    theta = dict(zip(table.weights, values, strict=True))
    unknown = sorted(set(names) - set(theta))
    if unknown:
        raise DataError(f"value.heads: there is no weight {unknown[0]!r}; the assignment has {', '.join(theta)}")
    heads_named = list(names.values())
    for head in heads_named:
        if heads_named.count(head) > 1:
            several = " and ".join(name for name, to in names.items() if to == head)
            raise DataError(f"value.heads: found {several} for head {head!r}; expected one weight a head")
    return from_weights({head: theta[name] for name, head in names.items()}, table.form, heads)


def from_redis(
    url: str, study: str, heads: tuple[str, ...], names: Mapping[str, str], arm: str = CONTROL, segment: str = ALL
) -> ValueModel:
    """The weights in force now.

    Raises:
        DataError: the address is none, Redis does not answer, or holds no table of the study.
    """
    import redis

    key = f"trimtab:{study}:assignment"
    try:
        client = redis.Redis.from_url(
            url, password=os.environ.get(PASSWORD), socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S
        )
    except ValueError as error:
        raise DataError(f"value.redis: found {url!r}: {error}") from error
    try:
        raw = client.get(key)
    except redis.RedisError as error:
        raise DataError(f"value.redis: {url}: {error}") from error
    finally:
        client.close()
    if raw is None:
        raise DataError(f"value.study: {url} holds no key {key}; is the daemon of {study!r} running?")
    return from_assignment(raw if isinstance(raw, bytes) else raw.encode(), heads, names, arm, segment)
