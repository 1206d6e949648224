"""The study file becomes the plan and the addresses of the services, or a list of all its mistakes."""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from controller.core.durations import DAY_MS, HOUR_MS, written
from controller.core.estimate import MIN_BUCKETS, Metric, at_cap
from controller.core.events import Component
from controller.core.offline import Prediction
from controller.core.plan import MAX_ROWS, Plan
from controller.core.rollout import RolloutPlan, TrafficPlan, whole
from controller.core.windows import WindowPlan
from controller.shell.access import Admin
from controller.shell.connections import SECRETS, Kafka, Redis
from controller.shell.limits import percent, words
from controller.shell.offline_file import read_predictions
from controller.shell.study_file import (
    ComponentTable,
    MetricTable,
    RolloutTable,
    StudyTable,
    TrafficTable,
    WindowTable,
    check,
    components_of,
    demands,
)
from controller.shell.toml_records import Mistake, join, read_fields, show

MAX_LISTED = 20  # mistakes of a file of predictions that are shown
SQLITE = b"SQLite format 3\x00"  # what every journal begins with
_Service = TypeVar("_Service", Kafka, Redis)
_FIX_ONE = "fix one weight (`fixed = true`) to save evidence"
_ALONE = "a single weight above 0 changes no order, whatever it is: add another weight, and fix one (`fixed = true`)"
LARGE_LIMIT = 0.3  # of a guardrail: nobody bears so much, it is a percentage taken for a fraction
LARGE_STATE = 2**30  # bytes of sums that are not sealed: a decision goes through all of them


class Study(msgspec.Struct, frozen=True, kw_only=True):
    """A study file that was found sound.

    `warnings` are things that work, but probably not as meant; `demands` what `trimtab check` wants in it besides;
    `unwritten` keys that the file leaves to follow from others.
    """

    path: Path
    plan: Plan
    kafka: Kafka
    redis: Redis
    journal: Path
    admin: Admin = Admin()
    warnings: tuple[str, ...] = ()
    demands: tuple[str, ...] = ()
    unwritten: tuple[str, ...] = ()


class ConfigError(Exception):
    """The operator's file is not a study. `mistakes` holds each thing that is wrong with it."""

    def __init__(self, path: Path, mistakes: tuple[Mistake, ...]) -> None:
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        super().__init__("\n".join((f"{path}: {count}", *(f"  {mistake}" for mistake in mistakes))))
        self.path = path
        self.mistakes = mistakes


def load(path: Path | str) -> Study:
    """Read and check a study file; relative paths in it start at its folder.

    Raises:
        ConfigError: it cannot be read or is no study; names every mistake by its key path.
    """
    path = Path(path)
    tree = _tree(path)
    tables, mistakes = read_fields(StudyTable, tree, SECRETS)
    mistakes += [*check(tables), *_nul("", tree)]
    if not any(mistake.path.startswith(("window", "rollout")) for mistake in mistakes):
        mistakes += _contradictions(tables)
    if mistakes:
        raise ConfigError(path, tuple(sorted(set(mistakes), key=str)))
    table = StudyTable(**tables)
    predictions, mistakes = _offline(table, path.parent)
    if mistakes:
        raise ConfigError(path, tuple(mistakes[:MAX_LISTED]))
    plan = _plan(table, predictions)
    return Study(
        path=path,
        plan=plan,
        kafka=_with_paths(table.kafka, path.parent),
        redis=_with_paths(table.redis, path.parent),
        journal=path.parent / table.journal.path,
        admin=_admin(table.admin, path.parent),
        warnings=_warnings(plan),
        demands=demands(table),
        unwritten=tuple(_unwritten(table)),
    )


def _unwritten(table: StudyTable) -> Iterator[str]:
    for name, part in (("window", table.window), ("rollout", table.rollout), ("traffic", table.traffic)):
        absent = [key for key, value in msgspec.structs.asdict(part).items() if value is None and key != "verify"]
        yield from (f"{name}.{key}" for key in absent)


def _nul(place: str, value: Any) -> Iterator[Mistake]:
    """No name and no path can hold one."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _nul(join(place, key), inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _nul(f"{place}[{index}]", inner)
    elif isinstance(value, str) and "\x00" in value:
        yield Mistake(place, show(value), "a text without a NUL character")


def _tree(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()
        if content.startswith(SQLITE):
            raise _unreadable(path, "a journal (an SQLite database)", "the study file that names it in journal.path")
        return tomllib.loads(content.decode("utf-8-sig"))  # some editors begin with a mark
    except FileNotFoundError:
        raise _unreadable(path, "no such file", "the path of a study file") from None
    except IsADirectoryError:
        raise _unreadable(path, "a directory", "the path of a study file") from None
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error), "a file that can be read") from error
    except UnicodeDecodeError as error:
        raise _unreadable(path, f"a byte that is not UTF-8 at position {error.start}", "TOML in UTF-8") from error
    # tomllib's own errors are ValueErrors, and so are numbers and dates that Python refuses; arrays may be too deep.
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, f"no TOML: {error}", "a TOML file; see deploy/studies/feed.toml") from error


def _unreadable(path: Path, found: str, accepted: str) -> ConfigError:
    return ConfigError(path, (Mistake("the file", found, accepted),))


def _plan(table: StudyTable, predictions: tuple[Prediction, ...]) -> Plan:
    return Plan(
        study=table.study,
        seed=table.seed,
        form=table.form,
        salt=f"{table.study}:" if table.traffic.salt is None else table.traffic.salt,
        buckets=table.traffic.buckets,
        window=_window(table.window),
        segments=table.segments.values,
        components=_components(table),
        weights=table.weights,
        metrics=tuple(_metric(name, metric) for name, metric in table.metrics.items()),
        objective=table.objective,
        objectives=table.objectives,
        guardrails=table.guardrails,
        traffic=_traffic(table.traffic),
        rollout=_rollout(table.rollout, int(table.window.length)),
        safety=table.safety,
        offline=predictions,
    )


def _offline(table: StudyTable, folder: Path) -> tuple[tuple[Prediction, ...], list[Mistake]]:
    if table.offline is None:
        return (), []
    return read_predictions(folder / table.offline.path, table.weights, tuple(table.metrics))


def _window(window: WindowTable) -> WindowPlan:
    """Fill in defaults by the length: for "1h" a grace of "5m", a lateness of "6h", a validity of "3h"."""
    length = int(window.length)
    lateness = min(6 * length, 6 * HOUR_MS) if window.lateness is None else int(window.lateness)
    return WindowPlan(
        length_ms=length,
        grace_ms=min(length // 12, 5 * 60_000) if window.grace is None else int(window.grace),
        lateness_ms=lateness,
        dedupe_ms=lateness if window.dedupe is None else int(window.dedupe),
        validity_ms=3 * length if window.validity is None else int(window.validity),
    )


def _components(table: StudyTable) -> tuple[Component, ...]:
    declared = {name: table.components.get(name, ComponentTable()) for name in components_of(table.metrics)}
    brought = tuple(Component(name, found.negative, found.cap) for name, found in declared.items())
    return brought + tuple(Component(at_cap(c.name), c.negative, of=c.name) for c in brought if c.cap is not None)


def _metric(name: str, metric: MetricTable) -> Metric:
    return Metric(name, metric.numerator, metric.denominator, metric.response)


def _traffic(traffic: TrafficTable) -> TrafficPlan:
    return TrafficPlan(traffic.explore_arms, traffic.explore_share, traffic.max_share_at_risk)


def _rollout(rollout: RolloutTable, length_ms: int) -> RolloutPlan:
    """Fill in defaults: explore for 24 to 36 hours, confirm for 24, two windows a ramp step."""
    explore_min = max(DAY_MS, length_ms) if rollout.explore_min is None else int(rollout.explore_min)
    return RolloutPlan(
        explore_min_ms=explore_min,
        explore_max_ms=explore_min * 3 // 2 if rollout.explore_max is None else int(rollout.explore_max),
        confirm_ms=max(DAY_MS, length_ms) if rollout.confirm is None else int(rollout.confirm),
        ramp_step_ms=2 * length_ms if rollout.ramp_step is None else int(rollout.ramp_step),
        ramp_shares=rollout.ramp_shares,
        confirm_alpha=rollout.confirm_alpha,
        require_approval=rollout.require_approval,
        verify_ms=int(rollout.verify or 0),
    )


def _with_paths(service: _Service, folder: Path) -> _Service:
    named = {key: path for key, path in msgspec.structs.asdict(service.tls).items() if path is not None}
    return msgspec.structs.replace(service, **{key: str(folder / path) for key, path in named.items()})


def _admin(admin: Admin, folder: Path) -> Admin:
    files = {name: getattr(admin, name) for name in ("tokens_file", "cert_file", "key_file")}
    return msgspec.structs.replace(admin, **{n: str(folder / f) for n, f in files.items() if f is not None})


def _contradictions(tables: Mapping[str, Any]) -> list[Mistake]:
    """What the durations, defaults filled in, must satisfy among themselves."""
    window = _window(tables["window"])
    rollout = _rollout(tables["rollout"], window.length_ms)
    length, grace, lateness = window.length_ms, window.grace_ms, window.lateness_ms
    rules = (
        ("window.grace", grace, grace < lateness, f"below window.lateness ({written(lateness)})"),
        (
            "window.grace",
            grace,
            2 * grace < length,
            f"below half of window.length ({written(length)}), or no table serves most of a window, and no stage ends",
        ),
        (
            "window.dedupe",
            window.dedupe_ms,
            window.dedupe_ms <= lateness,
            f"at most window.lateness ({written(lateness)})",
        ),
        (
            "window.validity",
            window.validity_ms,
            window.validity_ms >= length + grace,
            f"at least window.length + window.grace ({written(length + grace)}), or tables expire before the next",
        ),
        (
            "rollout.explore_min",
            rollout.explore_min_ms,
            rollout.explore_min_ms >= length,
            f"at least a window ({written(length)})",
        ),
        (
            "rollout.explore_max",
            rollout.explore_max_ms,
            rollout.explore_max_ms >= rollout.explore_min_ms,
            f"at least rollout.explore_min ({written(rollout.explore_min_ms)})",
        ),
        (
            "rollout.confirm",
            rollout.confirm_ms,
            rollout.confirm_ms >= length,
            f"at least a window ({written(length)})",
        ),
        (
            "rollout.ramp_step",
            rollout.ramp_step_ms,
            rollout.ramp_step_ms >= length,
            f"at least a window ({written(length)})",
        ),
    )
    return [Mistake(path, written(value), accepted) for path, value, sound, accepted in rules if not sound]


def _warnings(plan: Plan) -> tuple[str, ...]:
    found = []
    if plan.form == "linear" and not any(weight.fixed and weight.baseline != 0 for weight in plan.weights):
        alone = sum(not weight.fixed for weight in plan.weights) == 1
        found.append(f"weights: a linear value model is scale-free; {_ALONE if alone else _FIX_ONE}")
    delayed = {metric.name for metric in plan.metrics if metric.response == "delayed"}
    found += [
        f"objective.{name}: a delayed metric is judged before promotion only; exploring cannot raise it"
        for name in plan.objective
        if name in delayed
    ]
    if plan.rollout.confirm_ms % DAY_MS:
        found.append(
            f"rollout.confirm: {written(plan.rollout.confirm_ms)} is not whole days; the hour biases the claim"
        )
    if plan.window.lateness_ms < plan.window.length_ms + plan.window.grace_ms:
        found.append(
            "window.lateness: below window.length + window.grace, a vector that no longer gains what it did is not "
            "noticed: at least two windows must be open to be held against those before"
        )
    found += [*_short_lived(plan), *_large(plan), *_thin(plan), *_slow(plan)]
    return (*found, *_wide(plan), *_strict(plan), *_opposed(plan))


def _short_lived(plan: Plan) -> Iterator[str]:
    renewed_ms = plan.window.length_ms + plan.window.grace_ms
    if 3 * plan.window.validity_ms < 4 * renewed_ms:  # the alert fires when three quarters of a table's life are over
        yield (
            f"window.validity: below {written(4 * renewed_ms // 3)}, a third more than window.length + window.grace, a "
            "table is near its end in every window, and the alert TrimtabTableExpires fires though all is well"
        )


def _wide(plan: Plan) -> Iterator[str]:
    for index, rail in enumerate(plan.guardrails):
        if abs(rail.limit) > LARGE_LIMIT:
            key = "min_change" if rail.min_change is not None else "max_change"
            yield (
                f"guardrails[{index}].{key}: {rail.limit:g} is {percent(rail.limit)} of {rail.metric}; limits are "
                "fractions: 0.01 is 1 %"
            )


def _strict(plan: Plan) -> Iterator[str]:
    """Limits that the baseline does not keep, or only just."""
    for index, rail in enumerate(plan.guardrails):
        key, fall = ("min_change", "fall") if rail.min_change is not None else ("max_change", "rise")
        if rail.limit == 0:
            yield f"guardrails: {rail.metric} may not {fall} ({key} = 0); half of all harmless vectors look unsafe"
        elif rail.borne != rail:
            wish = "rise" if fall == "fall" else "fall"
            yield (
                f"guardrails[{index}].{key}: {rail.limit:+g} demands that {rail.metric} {wish} by "
                f"{abs(rail.limit):.2%} or more: the baseline is infeasible, and nothing is promoted before a vector "
                f"does so; to bear a {fall} of as much, write {-rail.limit:+g}"
            )


def _opposed(plan: Plan) -> Iterator[str]:
    """Terms of an objective that reward what a guardrail limits: most often a sign, or a side, that was mistaken."""
    objectives = {"objective": plan.objective} | {join("objectives", n): own for n, own in plan.objectives.items()}
    for index, rail in enumerate(plan.guardrails):
        for path, terms in objectives.items():
            coefficient = terms.get(rail.metric, 0.0)
            if coefficient and (coefficient > 0) == (rail.max_change is not None):
                wish = "rise" if coefficient > 0 else "fall"
                yield (
                    f"{join(path, rail.metric)}: {coefficient:+g} rewards a {wish} of {rail.metric}, which "
                    f"guardrails[{index}] limits: {words(rail)}"
                )


def _large(plan: Plan) -> Iterator[str]:
    unsealed = (plan.window.lateness_ms + plan.window.grace_ms) // plan.window.length_ms + 2
    # Beside each window's table there is the one before: clients change over while the window is open.
    size = 2 * unsealed * (len(plan.segments) + 1) * plan.buckets * (len(plan.components) + 1) * 8
    if size > LARGE_STATE:
        yield (
            f"window: {unsealed} windows of {plan.buckets} buckets stay open at once, about {size / 2**30:.1f} GiB; "
            "a longer window.length, a shorter window.lateness or fewer traffic.buckets need less"
        )


def _slow(plan: Plan) -> Iterator[str]:
    rows = max(len(plan.segments), 1) * plan.traffic.explore_arms
    stay_ms = plan.stay_windows * plan.window.length_ms
    if plan.stay_windows > 1 and stay_ms >= DAY_MS // 4:
        yield (
            f"traffic.explore_arms: {rows} changes a deal (one an arm and segment), of which the belief holds "
            f"{MAX_ROWS}: so that it reaches back far enough, vectors stay for {written(stay_ms)}; with fewer arms or "
            "segments new ones come sooner"
        )


def _thin(plan: Plan) -> Iterator[str]:
    first, last = plan.rollout.ramp_shares[0], plan.rollout.ramp_shares[-1]
    if min(round(first * plan.buckets), plan.buckets - round(last * plan.buckets)) < MIN_BUCKETS:
        yield (
            f"rollout.ramp_shares: of {plan.buckets} buckets, vector or control gets fewer than {MIN_BUCKETS} at some "
            "share; guardrails are hardly watched there"
        )
    if whole(plan.traffic.confirm_share * plan.buckets) < MIN_BUCKETS:
        yield (
            f"traffic.max_share_at_risk: of {plan.buckets} buckets, half of it gives a candidate fewer than "
            f"{MIN_BUCKETS} in its confirm test; nothing is learnt there"
        )
