"""The study file as people write it: its tables, and what must hold within and between them.

A check gets the tables it names and yields a mistake for everything that is wrong with
them. It runs only when those tables could be read at all.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

import msgspec

from controller.assignment import ALL, STUDY, STUDY_RULE, Form
from controller.core.durations import DAY_MS, written
from controller.core.estimate import BUCKETS, MIN_BUCKETS
from controller.core.plan import MAX_ROWS
from controller.core.rollout import HOLDBACK, whole
from controller.core.rows import MAX_VALUE
from controller.core.safety import Guardrail, SafetyPlan
from controller.core.space import Weight
from controller.shell.access import Admin, check_admin
from controller.shell.connections import Kafka, Redis, check_kafka, check_redis
from controller.shell.toml_records import Duration, Mistake, join, names, plain, plain_name, show, within

MAX_BUCKETS: Final = 100_000  # the table in Redis holds one number a bucket
MAX_RAMP_SHARE: Final = 1.0 - HOLDBACK
MAX_OBJECTIVES: Final = 6  # named ones: a front of more cannot be looked at


class WindowTable(msgspec.Struct, frozen=True):
    """`[window]`; absent durations are filled in by `config`."""

    length: Duration
    grace: Duration | None = None
    lateness: Duration | None = None
    dedupe: Duration | None = None
    validity: Duration | None = None


class MetricTable(msgspec.Struct, frozen=True):
    """One entry of `[metrics]`. `waiver`: why a ratio's denominator needs no guardrail of its own; see `demands`."""

    ACCEPTED: ClassVar[str] = f'{{ numerator = COMPONENT, denominator = COMPONENT or "{BUCKETS}" }}'

    numerator: Annotated[str, msgspec.Meta(description="a component of your events (`values`)")]
    denominator: Annotated[str, msgspec.Meta(description=f'a component of your events (`values`), or "{BUCKETS}"')]
    response: Literal["immediate", "delayed"] = "immediate"
    waiver: str = ""


class ComponentTable(msgspec.Struct, frozen=True):
    """One entry of `[components]`."""

    negative: bool = False
    cap: float | None = None


class TrafficTable(msgspec.Struct, frozen=True):
    """`[traffic]`."""

    explore_arms: int = 8
    explore_share: float = 0.32
    max_share_at_risk: float = 0.4
    buckets: int = 1000
    salt: str | None = None


class RolloutTable(msgspec.Struct, frozen=True):
    """`[rollout]`; absent durations are filled in by `config`."""

    explore_min: Duration | None = None
    explore_max: Duration | None = None
    confirm: Duration | None = None
    ramp_step: Duration | None = None
    ramp_shares: tuple[float, ...] = (0.05, 0.25, 0.5, 0.95)
    confirm_alpha: float = 0.025
    require_approval: bool = False
    verify: Duration | None = None


class SegmentsTable(msgspec.Struct, frozen=True):
    """`[segments]`."""

    values: tuple[str, ...] = ()


class FileTable(msgspec.Struct, frozen=True):
    """`[journal]`, and `[offline]`: a CSV file that `offline_file` reads."""

    path: str


class StudyTable(msgspec.Struct, frozen=True):
    """The whole file."""

    study: str
    window: WindowTable
    weights: tuple[Weight, ...]
    metrics: dict[str, MetricTable]
    objective: dict[str, float]
    kafka: Kafka
    redis: Redis
    journal: FileTable
    guardrails: tuple[Guardrail, ...] = ()
    traffic: TrafficTable = TrafficTable()
    segments: SegmentsTable = SegmentsTable()
    components: dict[str, ComponentTable] = {}
    rollout: RolloutTable = RolloutTable()
    safety: SafetyPlan = SafetyPlan()
    offline: FileTable | None = None
    seed: int = 0
    form: Form = "linear"
    objectives: dict[str, dict[str, float]] = {}
    admin: Admin = Admin()


def check(tables: Mapping[str, Any]) -> list[Mistake]:
    """Every contradiction within and between the tables that could be read."""
    ready = [(needed, rule) for needed, rule in _RULES if all(name in tables for name in needed)]
    return [mistake for needed, rule in ready for mistake in rule(*(tables[name] for name in needed))]


def components_of(metrics: Mapping[str, MetricTable]) -> tuple[str, ...]:
    """The components that the metrics are made of, in the order in which the file names them."""
    used = [name for metric in metrics.values() for name in (metric.numerator, metric.denominator)]
    return tuple(dict.fromkeys(name for name in used if name != BUCKETS))


def demands(table: StudyTable) -> tuple[str, ...]:
    """What `trimtab check` asks for: that nobody wins a ratio by what it is divided by.

    More clicks per impression may be fewer impressions. So a ratio that is aimed at or guarded needs a guardrail on its
    denominator per bucket, or a waiver that says why not.
    """
    judged = {*table.objective, *(guardrail.metric for guardrail in table.guardrails)}
    per_bucket = {m.numerator: name for name, m in table.metrics.items() if m.denominator == BUCKETS}
    guarded = {guardrail.metric for guardrail in table.guardrails}
    to_rise = {name for name, coefficient in table.objective.items() if coefficient > 0}
    to_rise |= {guardrail.metric for guardrail in table.guardrails if guardrail.min_change is not None}
    return tuple(
        _demand(name, metric, per_bucket.get(metric.denominator), name in to_rise)
        for name, metric in table.metrics.items()
        if name in judged and metric.denominator != BUCKETS and not metric.waiver
        if per_bucket.get(metric.denominator) not in guarded
    )


def _demand(name: str, metric: MetricTable, watched: str | None, to_rise: bool) -> str:
    shown, key = metric.denominator, watched or f"{metric.denominator}_per_bucket"
    entry = f"[metrics]\n{join('', key)} = {{ numerator = {show(shown)}, denominator = {show(BUCKETS)} }}\n"
    rail = f"[[guardrails]]\nmetric = {show(key)}\n" + ("min_change = -0.01" if to_rise else "max_change = 0.01")
    how = f"rise because {shown} fall" if to_rise else f"fall because {shown} rise"
    return (
        f"{join('metrics', name)} may {how}, and no guardrail watches {shown} per bucket; add\n"
        f"{'' if watched else entry}{rail}\n"
        f'or say why it needs none: {join("", name)} = {{ ..., waiver = "..." }}'
    )


def _study(study: str) -> Iterator[Mistake]:
    if not STUDY.fullmatch(study):
        yield Mistake("study", show(study), STUDY_RULE)


def _seed(seed: int) -> Iterator[Mistake]:
    yield from within("seed", seed, 0 <= seed < 2**63, "a whole number from 0 to 2^63 - 1")


def _window(window: WindowTable) -> Iterator[Mistake]:
    if not 1_000 <= window.length <= 7 * DAY_MS:
        yield Mistake("window.length", written(window.length), 'from "1s" to "7d"')


def _weights(weights: tuple[Weight, ...]) -> Iterator[Mistake]:
    if all(weight.fixed for weight in weights):
        yield Mistake("weights", f"{len(weights)} weights, none free", "at least one weight without `fixed = true`")
    yield from _repeated([weight.name for weight in weights], lambda index: f"weights[{index}].name")
    for index, weight in enumerate(weights):
        yield from plain_name(f"weights[{index}].name", weight.name)
        yield from _weight(weight, f"weights[{index}]")


def _weight(weight: Weight, path: str) -> Iterator[Mistake]:
    bounds = {"low": weight.low, "high": weight.high, "baseline": weight.baseline}
    unusable = [key for key, value in bounds.items() if not math.isfinite(value)]
    for key in unusable:
        yield Mistake(f"{path}.{key}", show(bounds[key]), "a finite number")
    if unusable:
        return
    if not (weight.low < weight.high or (weight.fixed and weight.low == weight.high)):
        yield Mistake(f"{path}.low", show(weight.low), f"a number below {path}.high, which is {weight.high}")
    elif not weight.low <= weight.baseline <= weight.high:
        yield Mistake(
            f"{path}.baseline",
            show(weight.baseline),
            f"a number from {weight.low} to {weight.high} (low to high)",
        )
    elif not math.isfinite(weight.high - weight.low):
        yield Mistake(f"{path}.high", show(weight.high), f"a number whose distance to {path}.low is a finite one")
    if weight.scale == "log" and weight.low <= 0:
        yield Mistake(f"{path}.low", show(weight.low), 'a number above 0, because the scale is "log"')


def _metrics(metrics: dict[str, MetricTable]) -> Iterator[Mistake]:
    if not metrics:
        yield Mistake(
            "metrics",
            "no metric",
            'at least one, such as ctr = { numerator = "clicks", denominator = "impressions" }',
        )
    for name, metric in metrics.items():
        path = join("metrics", name)
        yield from plain_name(path, name)
        yield from plain_name(f"{path}.numerator", metric.numerator)
        yield from plain_name(f"{path}.denominator", metric.denominator)
        if metric.numerator == BUCKETS:
            yield Mistake(
                f"{path}.numerator",
                show(BUCKETS),
                f'a component of the events; "{BUCKETS}" may be a denominator only',
            )
        if metric.numerator == metric.denominator:
            yield Mistake(
                f"{path}.denominator",
                show(metric.denominator),
                f'another component than the numerator, or "{BUCKETS}"',
            )
        if metric.waiver and metric.denominator == BUCKETS:
            yield Mistake(f"{path}.waiver", show(metric.waiver), "no waiver: a metric per bucket has nothing to waive")


def _components(components: dict[str, ComponentTable], metrics: dict[str, MetricTable]) -> Iterator[Mistake]:
    used = components_of(metrics)
    for name, component in components.items():
        if name not in used:
            yield Mistake(join("components", name), "a component that no metric uses", names(used, name))
        cap = component.cap
        if cap is not None:
            accepted = f"a number above 0 and at most {MAX_VALUE:g}, such as an amount that one event in 1000 passes"
            yield from within(join(join("components", name), "cap"), cap, 1e-6 <= cap <= MAX_VALUE, accepted)


def _objectives(
    objective: dict[str, float], named: dict[str, dict[str, float]], metrics: dict[str, MetricTable]
) -> Iterator[Mistake]:
    yield from _coefficients("objective", objective, metrics)
    yield from within("objectives", len(named), len(named) <= MAX_OBJECTIVES, f"at most {MAX_OBJECTIVES} tables")
    for name, own in named.items():
        path = join("objectives", name)
        yield from plain_name(path, name)
        yield from _coefficients(path, own, metrics)
        for metric in own:
            if metric in metrics and metrics[metric].response == "delayed":
                yield Mistake(join(path, metric), "a delayed metric", "an immediate one, which exploring learns of")


def _coefficients(path: str, objective: dict[str, float], metrics: dict[str, MetricTable]) -> Iterator[Mistake]:
    if not objective:
        yield Mistake(path, "no metric", f"a coefficient for at least one metric, {names(metrics)}")
    for name, coefficient in objective.items():
        own = join(path, name)
        yield from _known(own, name, metrics)
        if math.isfinite(coefficient) and coefficient:
            sound = 1e-9 <= abs(coefficient) <= 1e9  # squares of gains are numbers
            yield from within(own, coefficient, sound, "a number from 1e-9 to 1e9, or such a one below 0")
        else:
            yield Mistake(own, show(coefficient), "a finite number other than 0")


def _guardrails(guardrails: tuple[Guardrail, ...], metrics: dict[str, MetricTable]) -> Iterator[Mistake]:
    sides = [(guardrail.metric, guardrail.min_change is None) for guardrail in guardrails]
    for index, guardrail in enumerate(guardrails):
        path = f"guardrails[{index}]"
        yield from _known(f"{path}.metric", guardrail.metric, metrics)
        yield from _limits(guardrail, path)
        if sides[index] in sides[:index]:
            yield Mistake(
                f"{path}.metric", f"a second limit of {guardrail.metric} on the same side", "one limit a side"
            )
        yield from _crossed(guardrails, index)


def _crossed(guardrails: tuple[Guardrail, ...], index: int) -> Iterator[Mistake]:
    """Two limits of one metric that no change keeps both."""
    own = [rail for rail in guardrails[: index + 1] if rail.metric == guardrails[index].metric]
    low = max((rail.min_change for rail in own if rail.min_change is not None), default=-math.inf)
    high = min((rail.max_change for rail in own if rail.max_change is not None), default=math.inf)
    if not low < high:
        accepted = "a min_change below the max_change of the same metric"
        yield Mistake(f"guardrails[{index}]", f"{own[0].metric} between {low:+g} and {high:+g}", accepted)


def _limits(guardrail: Guardrail, path: str) -> Iterator[Mistake]:
    low, high = guardrail.min_change, guardrail.max_change
    if (low is None) == (high is None):
        found = "neither min_change nor max_change" if low is None else "both min_change and max_change"
        yield Mistake(path, found, "exactly one of min_change (a fall that hurts) and max_change (a rise that hurts)")
        return
    if low is not None:
        accepted = "a relative change above -1 and at most 10, such as -0.005 for a loss of at most 0.5 %"
        yield from within(f"{path}.min_change", low, -1 < low <= 10, accepted)
    if high is not None:
        accepted = "a relative change above -1 and at most 10, such as 0.01 for a rise of at most 1 %"
        yield from within(f"{path}.max_change", high, -1 < high <= 10, accepted)


def _traffic(traffic: TrafficTable) -> Iterator[Mistake]:
    arms, share, risk, buckets = (
        traffic.explore_arms,
        traffic.explore_share,
        traffic.max_share_at_risk,
        traffic.buckets,
    )
    sound = 2 * MIN_BUCKETS <= buckets <= MAX_BUCKETS
    yield from within("traffic.buckets", buckets, sound, f"a whole number from {2 * MIN_BUCKETS} to {MAX_BUCKETS}")
    yield from within("traffic.max_share_at_risk", risk, 0 < risk <= 0.5, "a share above 0 and at most 0.5")
    yield from within(
        "traffic.explore_share",
        share,
        0 < share <= risk,
        f"a share above 0 and at most max_share_at_risk ({risk})",
    )
    if traffic.salt is not None:
        yield from plain("traffic.salt", traffic.salt)
    if sound and 0 < share <= 1:
        most = whole(share * buckets) // MIN_BUCKETS
        every = f"so that each arm gets at least {MIN_BUCKETS} of the {buckets} buckets"
        accepted = f"1 to {most}, {every}" if most else f"a larger explore_share or more buckets, {every}"
        yield from within("traffic.explore_arms", arms, 1 <= arms <= most, accepted)


def _segments(segments: SegmentsTable) -> Iterator[Mistake]:
    yield from _repeated(segments.values, lambda index: f"segments.values[{index}]")
    for index, name in enumerate(segments.values):
        yield from plain_name(f"segments.values[{index}]", name)
        if name == ALL:
            yield Mistake(
                f"segments.values[{index}]",
                show(name),
                f'another name: "{ALL}" serves every unit of no segment',
            )


def _evidence(segments: SegmentsTable, traffic: TrafficTable) -> Iterator[Mistake]:
    """What a decision costs is bounded by the changes that the belief holds, but one deal's are all held."""
    count, arms = len(segments.values), traffic.explore_arms
    yield from within("traffic.explore_arms", arms, arms <= MAX_ROWS, f"at most {MAX_ROWS}: the belief holds no more")
    if arms <= MAX_ROWS:
        most = MAX_ROWS // max(arms, 1)
        accepted = f"at most {most} beside {arms} traffic.explore_arms: the belief holds {MAX_ROWS} changes"
        yield from within("segments.values", count, count * arms <= MAX_ROWS, accepted, "segments")


def _rollout(rollout: RolloutTable) -> Iterator[Mistake]:
    shares = rollout.ramp_shares
    rising = all(low < high for low, high in zip((0.0, *shares), (*shares, 1.0), strict=True))
    if not (shares and rising and shares[-1] <= MAX_RAMP_SHARE):
        accepted = f"rising shares above 0 and at most {MAX_RAMP_SHARE} (a holdback of 5 % stays for ever)"
        yield Mistake("rollout.ramp_shares", str(list(shares)), accepted)
    alpha = rollout.confirm_alpha
    yield from within("rollout.confirm_alpha", alpha, 0 < alpha < 0.5, "a probability above 0 and below 0.5")


def _ramp(rollout: RolloutTable, traffic: TrafficTable) -> Iterator[Mistake]:
    """A share of no bucket at all never carries the traffic that its step waits for."""
    if not 0 < traffic.buckets <= MAX_BUCKETS:  # which is told, and may be too many for a float
        return
    for index, share in enumerate(rollout.ramp_shares):
        if 0 < share <= MAX_RAMP_SHARE and not whole(share * traffic.buckets):
            accepted = f"a share that is at least one of the {traffic.buckets} buckets"
            yield Mistake(f"rollout.ramp_shares[{index}]", show(share), accepted)


def _safety(safety: SafetyPlan) -> Iterator[Mistake]:
    for name, value in msgspec.structs.asdict(safety).items():
        if name == "breaker_change":
            yield from within("safety.breaker_change", value, -1 < value < 0, "a relative change above -1 and below 0")
        elif name == "implausible_change":
            yield from within("safety.implausible_change", value, value > 0, "a relative change above 0")
        elif isinstance(value, float):
            yield from within(f"safety.{name}", value, 0 < value < 1, "a share above 0 and below 1")


def _journal(journal: FileTable) -> Iterator[Mistake]:
    sound = bool(journal.path.strip()) and "\x00" not in journal.path and not journal.path.endswith("/")
    yield from within("journal.path", journal.path, sound, "the path of a file, relative to the study file")


def _known(path: str, name: str, known: Collection[str]) -> Iterator[Mistake]:
    if name not in known:
        yield Mistake(path, f"the unknown metric {show(name)}", names(known, name))


def _repeated(listed: Iterable[str], path: Callable[[int], str]) -> Iterator[Mistake]:
    counts: Counter[str] = Counter()
    for index, name in enumerate(listed):
        counts[name] += 1
        if counts[name] == 2:
            yield Mistake(path(index), f"{show(name)} a second time", "a name that is used once")


_RULES: Final[tuple[tuple[tuple[str, ...], Callable[..., Iterator[Mistake]]], ...]] = (
    (("study",), _study),
    (("seed",), _seed),
    (("window",), _window),
    (("weights",), _weights),
    (("metrics",), _metrics),
    (("components", "metrics"), _components),
    (("objective", "objectives", "metrics"), _objectives),
    (("guardrails", "metrics"), _guardrails),
    (("traffic",), _traffic),
    (("segments",), _segments),
    (("segments", "traffic"), _evidence),
    (("rollout",), _rollout),
    (("rollout", "traffic"), _ramp),
    (("safety",), _safety),
    (("kafka",), check_kafka),
    (("redis",), check_redis),
    (("journal",), _journal),
    (("admin",), check_admin),
)
