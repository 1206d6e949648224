"""`trimtab report`: one HTML file that needs nothing beside it, its figures, the same as text."""

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from controller.core.plan import Plan
from controller.core.surface import Slice, Worth
from controller.shell import figures
from controller.shell.effects import Effect, Margin, effect
from controller.shell.findings import MAX_DAYS, Findings
from controller.shell.story import moment
from controller.shell.verdict import expected_margins, interval, signed

MAX_PANELS = 8  # weights whose slices are drawn, the most important first
LOG_ROWS = 400  # decisions that the text form shows


class VectorRow(msgspec.Struct, frozen=True):
    """A weight: its baseline, the vector's own by segment, and what it is worth."""

    name: str
    fixed: bool
    bounds: str
    baseline: float
    values: tuple[tuple[str, float], ...]
    worth: Worth | None
    bar: Markup


class MetricRow(msgspec.Struct, frozen=True):
    """A metric's change beside its guardrail."""

    name: str
    effect: Effect
    rail: Margin | None
    figure: Markup


class SegmentRow(msgspec.Struct, frozen=True):
    """A metric's change in every segment."""

    name: str
    effects: tuple[Effect, ...]


def page(found: Findings) -> str:
    """The whole report."""
    environment = Environment(
        loader=PackageLoader("controller.shell", "report_page"),
        autoescape=True,  # a reason may hold anything that a person can type
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"moment": moment, "signed": told, "interval": interval, "count": count}
    environment.filters["weight"] = figures.number
    folder = Path(__file__).with_name("report_page")
    style = Markup(figures.classes() + (folder / "report.css").read_text(encoding="utf-8"))
    plan = "" if found.plan is None else msgspec.json.format(msgspec.json.encode(found.plan), indent=2).decode()
    template = environment.get_template("report.html.j2")
    return template.render(
        f=found,
        v=found.verdict,
        style=style,
        plan_json=plan,
        vector=vector_rows(found),
        metrics=metric_rows(found),
        curve=Markup(figures.gain_curve(found.curve)),
        slices=slice_rows(found),
        segments=segment_rows(found),
        totals=totals,
        max_days=MAX_DAYS,
    )


def drawn(found: Findings) -> dict[str, str]:
    """The figures as files: name -> SVG."""
    made = [("gain", figures.gain_curve(found.curve))]
    for metric, panels in slice_rows(found):
        made += [(f"slice-{_plain(metric)}-{_plain(weight_)}", figure) for weight_, figure in panels]
    rows = metric_rows(found)
    made += [(f"metric-{_plain(row.name)}{_side(row, rows)}", row.figure) for row in rows]
    named: dict[str, str] = {}
    for name, figure in made:
        if figure:
            named[_free(name, named)] = figure
    return {f"{name}.svg": figures.alone(figure) for name, figure in named.items()}


def _free(name: str, taken: Mapping[str, str]) -> str:
    """The name, or its first with a number that no figure has: two metrics may differ in what a file cannot hold."""
    numbered = (name, *(f"{name}-{n}" for n in range(2, len(taken) + 2)))
    return next(one for one in numbered if one not in taken)


def _side(row: MetricRow, rows: list[MetricRow]) -> str:
    """What tells a metric's figures apart where it has a limit on either side."""
    both = sum(other.name == row.name for other in rows) > 1
    return f"-{row.rail.side}" if both and row.rail is not None else ""


def vector_rows(found: Findings) -> list[VectorRow]:
    """The weights, in the study's order; none where there is no vector."""
    plan, theta = found.plan, found.theta
    if plan is None or theta is None:
        return []
    worth = {} if found.surface is None else {one.weight: one for one in found.surface.worth}
    return [
        VectorRow(
            own.name,
            own.fixed,
            f"{figures.number(own.low)} to {figures.number(own.high)}",
            own.baseline,
            tuple((segment, row[i]) for segment, row in theta.items() if _shown(plan, segment)),
            worth.get(own.name),
            Markup(figures.bar(worth[own.name].share)) if own.name in worth else Markup(""),
        )
        for i, own in enumerate(plan.weights)
    ]


def _shown(plan: Plan, segment: str) -> bool:
    """In a study with segments `all` serves only whoever is in none."""
    return not plan.segments or segment != "all"


def metric_rows(found: Findings) -> list[MetricRow]:
    """The measured objective and metrics, a row for each guardrail; of a vector without a test, what is believed."""
    rails: tuple[Margin, ...] = ()
    rows: list[tuple[str, Effect]] = []
    if found.measured is not None and (found.measured.what == "candidate" or None in (found.surface, found.theta)):
        rows = [("objective", found.measured.effects.gain)]
        rows += [(one.metric, one.effect) for one in found.measured.effects.metrics]
        rails = found.measured.effects.margins
    elif found.plan is not None and found.surface is not None and found.theta is not None:
        rows = [] if found.verdict.gain is None else [("objective", found.verdict.gain)]
        rows += [(one.metric, effect(one.mean, one.sd)) for one in found.surface.expected]
        rails = expected_margins(found.plan, found.surface)
    ends = [abs(end) for _, e in rows for end in (e.low, e.high) if end is not None]
    reach = 1.08 * max([0.005, *ends, *(abs(rail.limit) for rail in rails)])
    made = []
    for name, own in rows:
        limits: list[Margin | None] = [rail for rail in rails if rail.metric == name]
        made += [MetricRow(name, own, rail, Markup(_forest(own, reach, rail))) for rail in limits or [None]]
    return made


def _forest(found: Effect, reach: float, rail: Margin | None) -> str:
    return figures.forest(found, reach) if rail is None else figures.forest(found, reach, rail.limit, rail.side)


def slice_rows(found: Findings) -> list[tuple[str, list[tuple[str, Markup]]]]:
    """metric -> (weight, figure) of the weights that matter most."""
    if found.surface is None or found.plan is None:
        return []
    ranked = sorted(found.surface.worth, key=lambda one: -one.share)[:MAX_PANELS]
    order = [own.name for own in found.plan.weights if own.name in {one.weight for one in ranked}]
    by_metric: dict[str, list[Slice]] = {}
    for one in found.surface.slices:
        if one.weight in order:
            by_metric.setdefault(one.metric, []).append(one)
    return [(metric, _panels(found.plan, metric, own)) for metric, own in by_metric.items()]


def _panels(plan: Plan, metric: str, slices: list[Slice]) -> list[tuple[str, Markup]]:
    weights = {own.name: own for own in plan.weights}
    limits = [rail.limit for rail in plan.guardrails if rail.metric == metric]
    bounds = figures.slice_bounds(slices)
    return [
        (
            one.weight,
            Markup(
                figures.slice_figure(
                    one, weights[one.weight].scale == "log", weights[one.weight].baseline, limits, bounds
                )
            ),
        )
        for one in slices
    ]


def segment_rows(found: Findings) -> list[SegmentRow]:
    """Each metric by segment."""
    if not found.segments:
        return []
    names = [one.metric for one in found.segments[0].effects.metrics]
    return [
        SegmentRow(name, tuple(segment.effects.metrics[m].effect for segment in found.segments))
        for m, name in enumerate(names)
    ]


def text(found: Findings) -> list[str]:
    """The report as lines for a terminal."""
    v = found.verdict
    told = [f"study {found.study}: {v.headline}", *(f"  {one}" for one in v.sentences)]
    if found.lacks:
        told.append(f"  told from the ledger alone, without measurements and surfaces: {found.lacks}")
    for row in vector_rows(found):
        values = ", ".join(f"{segment} {figures.number(value)}" for segment, value in row.values)
        told.append(f"  {row.name}: {values} (baseline {figures.number(row.baseline)})")
    told += ["", "how it got there:"]
    told += [f"  {moment(e.at_ms) if e.at_ms else 'before any event'}  {e.what}" for e in found.events]
    told += ["", f"decisions ({found.decided}; the newest {min(found.decided, LOG_ROWS)}):"]
    told += [f"  {moment(d.window_end_ms)}  {d.stage}, {d.outcome}: {d.what}" for d in found.decisions[-LOG_ROWS:]]
    told += ["", f"plan {found.plan_digest}, ledger of {found.entries} entries, chain {found.chain}, head {found.head}"]
    return told


def told(value: float | None) -> str:
    """A change for people."""
    return "unknown" if value is None else signed(value)


def count(value: int) -> str:
    """A number with separators."""
    return f"{value:,}"


def totals(found: Findings) -> Mapping[str, int]:
    """Rows of all sealed windows, by what became of them."""
    kinds = ("accepted", "misattributed", "fallback", "unknown_version", "rejected")
    return {kind: sum(getattr(day, kind) for day in found.days) for kind in kinds}


def _plain(name: str) -> str:
    return re.sub(r"[^\w-]+", "_", name)
