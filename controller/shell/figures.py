"""The report's figures as SVG: a curve with its band, intervals beside a limit, a slice of a surface, a bar.

Colours come from CSS variables, so that one figure serves light and dark pages; `alone` brings them along.
"""

import math
from collections.abc import Iterable, Sequence
from html import escape
from itertools import groupby

import msgspec
import numpy as np

from controller.core.surface import Slice
from controller.shell.board import HistoryEntry
from controller.shell.effects import Z95, Effect
from controller.shell.story import moment

STYLE = """
:root{--ink:#171a21;--soft:#545c6c;--line:#d9dde5;--field:#8a92a3;--accent:#1f4fd8;--accent-soft:#dbe5fd;--bad:#b01a1f;
--bad-soft:#fde3e3;--second:#0b8457;--third:#a05a00;--fourth:#7b3fc4}
@media (prefers-color-scheme:dark){:root{--ink:#eceff5;--soft:#a6afbf;--line:#2d3442;--field:#6d7789;--accent:#8fb0ff;
--accent-soft:#22345f;--bad:#ff9a97;--bad-soft:#4a191c;--second:#5fd3a1;--third:#f0b35e;--fourth:#c4a1ff}}
"""
_CLASSES = """
text{font:12px system-ui,"DejaVu Sans",sans-serif;fill:var(--soft)}.grid{stroke:var(--line)}.zero{stroke:var(--field)}
.band{fill:var(--accent-soft)}.curve{fill:none;stroke:var(--accent);stroke-width:2}.dot{fill:var(--accent)}
.limit{stroke:var(--bad);stroke-dasharray:5 3;stroke-width:1.5}.beyond{fill:var(--bad-soft)}
.name{fill:var(--ink);font-weight:600}
.reach{stroke:var(--accent);stroke-width:3;stroke-linecap:round}.stage{stroke:var(--field);stroke-dasharray:3 3}
.base{stroke:var(--field);stroke-width:1.5}.bar{fill:var(--accent)}.rest{fill:var(--line)}
.c1{stroke:var(--second)}.c2{stroke:var(--third)}.c3{stroke:var(--fourth)}
"""
CURVES = ("", "c1", "c2", "c3")  # classes of a slice's groups; more than these share the last


class _Axis(msgspec.Struct, frozen=True):
    """From values to places: [low, high] to [start, end], by the logarithm where `log`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        a, b, x = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (self.end - self.start) * ((x - a) / (b - a) if b > a else 0.5)


def alone(figure: str) -> str:
    """A figure as a file of its own."""
    head, _, rest = figure.partition(">")
    return f'{head} xmlns="http://www.w3.org/2000/svg"><style>{STYLE}{_CLASSES}</style>{rest}\n'


def classes() -> str:
    """What a page with figures needs in its style sheet."""
    return STYLE + _CLASSES


def _tag(name: str, inner: str = "", **attributes: object) -> str:
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"' for key, value in attributes.items() if value != ""
    )
    return f"<{name}{told}>{inner}</{name}>" if inner else f"<{name}{told}/>"


def _value(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else escape(str(value))


def _text(said: str, x: float, y: float, anchor: str = "start", class_: str = "") -> str:
    return _tag("text", escape(said), x=x, y=y, text_anchor=anchor, class_=class_)


def _svg(width: int, height: int, label: str, parts: Iterable[str]) -> str:
    return _tag("svg", "".join(parts), viewBox=f"0 0 {width} {height}", role="img", aria_label=label)


def _path(points: Iterable[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers from low to high, some `about` of them: 1, 2 or 5 times a power of ten apart."""
    if not high > low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def percent(value: float) -> str:
    """A tick's text: "+2.5%"."""
    text = f"{100 * value:.3g}"
    return ("+" if value > 0 else "") + text.replace("-", "\u2212") + "%"


def gain_curve(decisions: Sequence[HistoryEntry]) -> str:
    """Expected gain of the best vector known by window, with its 95 % band and the stages.

    It is broken where none was known, and where the objective is another from there on. "" without two decisions that
    knew one.
    """
    runs = [
        [(d.window_end_ms or 0, d.gain_mean or 0.0, Z95 * (d.gain_sd or 0.0)) for d in run]
        for (unknown, _), run in groupby(decisions, key=lambda d: (d.gain_mean is None, d.objective))
        if not unknown
    ]
    known = [point for run in runs for point in run]
    if len(known) < 2:
        return ""
    start_ms, end_ms = decisions[0].window_end_ms or 0, decisions[-1].window_end_ms or 0
    low, high = min(0.0, *(m - r for _, m, r in known)), max(0.0, *(m + r for _, m, r in known))
    x, y = _Axis(start_ms, end_ms, 56, 708), _Axis(low, high, 232, 12)
    parts = [line for t in ticks(low, high, 5) for line in _level(y(t), percent(t), 56, 708, t == 0)]
    for run in runs:
        there, back = [(x(t), y(m + r)) for t, m, r in run], [(x(t), y(m - r)) for t, m, r in reversed(run)]
        parts.append(_tag("path", class_="band", d=_path([*there, *back]) + "Z"))
        parts.append(_tag("path", class_="curve", d=_path((x(t), y(m)) for t, m, _ in run)))
        if len(run) == 1:  # no line shows it
            parts.append(_tag("circle", class_="dot", cx=x(run[0][0]), cy=y(run[0][1]), r=2))
    parts += _stages(decisions, x)
    parts += _hours(start_ms, end_ms, x)
    last, said = known[-1], ""
    if decisions[-1].gain_mean is None:
        lost_ms = next(d.window_end_ms or 0 for d in decisions if (d.window_end_ms or 0) > last[0])
        said, fits = f"none known since {moment(lost_ms)[:16]}", x(lost_ms) < 480
        parts.append(_text(said, x(lost_ms) + (4 if fits else -4), 24, "start" if fits else "end"))
    label = f"Expected gain over time, {len(known)} decisions; the last: {last[1]:+.2%}, plus or minus {last[2]:.2%}"
    return _svg(720, 272, label + (f"; {said}" if said else ""), parts)


def _level(y: float, said: str, start: float, end: float, zero: bool = False) -> list[str]:
    return [
        _tag("line", class_="zero" if zero else "grid", x1=start, x2=end, y1=y, y2=y),
        _text(said, start - 6, y + 4, "end"),
    ]


def _stages(decisions: Sequence[HistoryEntry], x: _Axis) -> list[str]:
    parts, before, last = [], "", -1e9
    for one in decisions:
        at = x(one.window_end_ms or 0)
        if one.stage == before or at < x.start:
            continue
        if before:
            parts.append(_tag("line", class_="stage", x1=at, x2=at, y1=12, y2=232))
        if at - last > 50:
            fits = at < x.end - 60
            parts.append(_text(one.stage.replace("_", " "), at + (4 if fits else -4), 226, "start" if fits else "end"))
            last = at
        before = one.stage
    return parts


def _hours(start_ms: int, end_ms: int, x: _Axis) -> list[str]:
    """Times along the axis: days, or hours and minutes where there are few of them."""
    minute, hour, span = 60_000, 3_600_000, end_ms - start_ms
    steps = [m * minute for m in (1, 5, 10, 15, 30)] + [h * hour for h in (1, 3, 6, 12, 24, 48, 168, 720, 2160)]
    step = next((s for s in steps if span / s <= 8), 8760 * hour)
    parts = []
    for at in range(-(-start_ms // step) * step, end_ms + 1, step):
        day, clock = _moment(at)
        side = "end" if x(at) > 690 else "middle"
        parts.append(_text(clock if step < 24 * hour else day[5:], x(at), 250, side))
        if step < 24 * hour and at % (24 * hour) < step:
            parts.append(_text(day[5:], x(at), 266, side))
    return parts


def _moment(ms: int) -> tuple[str, str]:
    day, _, clock = moment(ms).partition(" ")
    return day, clock[:5]


def forest(found: Effect, reach: float, limit: float | None = None, side: str = "") -> str:
    """An interval on a scale of +-`reach`, with the part beyond its limit shaded."""
    x, parts = _Axis(-reach, reach, 4, 236), []
    if limit is not None:
        at = min(max(x(limit), 4.0), 236.0)
        start, end = (4.0, at) if side == "min" else (at, 236.0)
        parts.append(_tag("rect", class_="beyond", x=start, y=3, width=end - start, height=20))
        parts.append(_tag("line", class_="limit", x1=at, x2=at, y1=2, y2=24))
    parts.append(_tag("line", class_="grid", x1=4, x2=236, y1=13, y2=13))
    parts.append(_tag("line", class_="zero", x1=120, x2=120, y1=4, y2=22))
    if found.change is not None and found.low is not None and found.high is not None:
        ends = [min(max(x(v), 2.0), 238.0) for v in (found.low, found.high)]
        parts.append(_tag("line", class_="reach", x1=ends[0], x2=ends[1], y1=13, y2=13))
        parts.append(_tag("circle", class_="dot", cx=min(max(x(found.change), 4.0), 236.0), cy=13, r=4.5))
    return _svg(240, 26, f"on a scale of plus or minus {reach:.1%}", parts)


def bar(part: float) -> str:
    """A part of 1."""
    filled = 116.0 * min(max(part, 0.0), 1.0)
    inner = [
        _tag("rect", class_="rest", x=2, y=4, width=116, height=10, rx=3),
        _tag("rect", class_="bar", x=2, y=4, width=filled, height=10, rx=3),
    ]
    return _svg(120, 18, f"{part:.0%}", inner)


def slice_figure(one: Slice, log: bool, baseline: float, limits: Sequence[float], bounds: tuple[float, float]) -> str:
    """A metric along one weight. `bounds`: of the metric's axis, so that a row of slices shares it."""
    x, y = _Axis(one.values[0], one.values[-1], 50, 252, log), _Axis(*bounds, 138, 24)
    parts = [_text(one.weight, 50, 14, class_="name")]
    parts += [line for t in ticks(*bounds, 4) for line in _level(y(t), percent(t), 50, 252, t == 0)]
    parts += [
        _tag("line", class_="limit", x1=50, x2=252, y1=y(at), y2=y(at)) for at in limits if bounds[0] <= at <= bounds[1]
    ]
    parts.append(_tag("line", class_="base", x1=x(baseline), x2=x(baseline), y1=132, y2=144))
    alone_ = len(one.curves) == 1
    for k, curve in enumerate(one.curves):
        mean = [_kept(m, bounds) for m in curve.mean]
        if alone_:
            high = [_kept(m + Z95 * s, bounds) for m, s in zip(curve.mean, curve.sd, strict=True)]
            low = [_kept(m - Z95 * s, bounds) for m, s in zip(curve.mean, curve.sd, strict=True)]
            there = [(x(v), y(h)) for v, h in zip(one.values, high, strict=True)]
            back = [(x(v), y(h)) for v, h in zip(reversed(one.values), reversed(low), strict=True)]
            parts.insert(1, _tag("path", class_="band", d=_path([*there, *back]) + "Z"))
        parts.append(
            _tag(
                "path",
                class_=f"curve {CURVES[min(k, 3)]}".strip(),
                d=_path((x(v), y(m)) for v, m in zip(one.values, mean, strict=True)),
            )
        )
        parts.append(
            _tag(
                "circle", class_="dot", cx=x(curve.chosen), cy=y(float(np.interp(curve.chosen, one.values, mean))), r=4
            )
        )
    parts += [_text(number(v), x(v), 158, anchor) for v, anchor in ((one.values[0], "start"), (one.values[-1], "end"))]
    return _svg(260, 164, _described(one), parts)


def _kept(value: float, bounds: tuple[float, float]) -> float:
    return min(max(value, bounds[0]), bounds[1])


def _described(one: Slice) -> str:
    curve, (low, high) = one.curves[0], (number(one.values[0]), number(one.values[-1]))
    ends = f"{curve.mean[0]:+.2%} at {low}, {curve.mean[-1]:+.2%} at {high}"
    return f"{one.metric} along {one.weight}: {ends}; the vector is at {number(curve.chosen)}"


def slice_bounds(slices: Sequence[Slice]) -> tuple[float, float]:
    """An axis on which the curves of a metric can be told, and so much of their bands as does not flatten them."""
    means = [m for one in slices for curve in one.curves for m in curve.mean]
    low, high = min(0.0, *means), max(0.0, *means)
    room = max(0.6 * (high - low), 0.004)
    ends = [(m - Z95 * s, m + Z95 * s) for one in slices for c in one.curves for m, s in zip(c.mean, c.sd, strict=True)]
    return max(low - room, min(e[0] for e in ends)), min(high + room, max(e[1] for e in ends))


def number(value: float) -> str:
    """A weight, to four digits."""
    return f"{value:.4g}".replace("-", "\u2212")
