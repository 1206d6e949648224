import math
import xml.etree.ElementTree as ET
from itertools import pairwise

import msgspec
import pytest

from controller.core.surface import Curve, Slice
from controller.shell import figures
from controller.shell.board import HistoryEntry
from controller.shell.effects import UNKNOWN, Effect

HOUR = 3_600_000
DAY = 24 * HOUR


def decision(hour: int, gain: float | None = 0.01, stage: str = "explore") -> HistoryEntry:
    return HistoryEntry(0, "decided", "", stage, hour * HOUR, "dealt", gain, None if gain is None else 0.005, 0.9)


def drawn(figure: str) -> ET.Element:
    return ET.fromstring(figures.alone(figure))


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-0.013, 0.0871), (1e-9, 3e-9), (-5.0, 1234.0)])
def test_ticks_are_round_inside_and_even(low: float, high: float) -> None:
    found = figures.ticks(low, high, 5)
    assert 2 <= len(found) <= 8
    assert all(low - 1e-12 <= t <= high * (1 + 1e-9) for t in found)
    steps = [b - a for a, b in pairwise(found)]
    assert steps == pytest.approx([steps[0]] * len(steps))
    mantissa = steps[0] / 10 ** math.floor(math.log10(steps[0]) + 1e-9)
    assert any(mantissa == pytest.approx(m) for m in (1, 2, 5, 10))


def test_an_axis_without_width_has_one_tick() -> None:
    assert figures.ticks(2.0, 2.0, 5) == [2.0]


def test_a_figure_is_a_file_that_parses_and_says_what_it_shows() -> None:
    figure = figures.gain_curve([decision(h, 0.01 * h) for h in range(9)])
    root = drawn(figure)
    assert root.attrib["role"] == "img"
    assert "+8.00%, plus or minus 0.98%" in root.attrib["aria-label"]
    assert "prefers-color-scheme" in figures.alone(figure)


def test_the_curve_leaves_out_what_was_not_known_and_marks_stages() -> None:
    hours = [
        decision(0, None),
        *(decision(h) for h in range(1, 10)),
        *(decision(h, stage="confirm") for h in range(10, 20)),
    ]
    figure = figures.gain_curve(hours)
    assert figure.count('class="stage"') == 1
    assert ">explore<" in figure
    assert ">confirm<" in figure
    assert figures.gain_curve([decision(0, None), decision(1)]) == ""


@pytest.mark.parametrize(
    ("minutes", "times"),
    [(4, ["00:00", "00:01", "00:02", "00:03", "00:04"]), (40, ["00:00", "00:05", "00:10", "00:15"]),
     (50, ["00:00", "00:10", "00:20"]), (100, ["00:00", "00:15"]), (200, ["00:00", "00:30"]),
     (400, ["00:00", "01:00"])],
)  # fmt: skip
def test_a_short_study_has_its_time_told(minutes: int, times: list[str]) -> None:
    ends = (DAY, DAY + minutes * HOUR // 60)
    figure = figures.gain_curve([msgspec.structs.replace(decision(0), window_end_ms=end) for end in ends])
    told = [text for text in drawn(figure).itertext() if text[2:3] == ":"]
    assert told[: len(times)] == times
    assert len(told) <= 9


def test_the_curve_is_broken_where_none_was_known_and_ends_where_none_is() -> None:
    known = {0, 1, 2, 6, 10, 11}
    figure = figures.gain_curve([decision(h, 0.05 if h in known else None) for h in range(24)])
    curves = [e.attrib["d"] for e in drawn(figure).iter() if e.attrib.get("class") == "curve"]
    assert [curve.count("L") + 1 for curve in curves] == [3, 1, 2]
    assert figure.count("<circle") == 1, "a single decision is a dot"
    ends = [float(curve.strip("M").split("L")[-1].split()[0]) for curve in curves]
    assert ends[-1] == pytest.approx(56 + (708 - 56) * 11 / 23, abs=0.1), "the axis goes on to the newest decision"
    assert figure.count("none known since 1970-01-01 12:00") == 2, "to be seen and to be heard"


def test_the_curve_is_broken_where_the_objective_is_another() -> None:
    chosen = [msgspec.structs.replace(decision(h), objective={"ctr": 1.0}) for h in range(5, 9)]
    figure = figures.gain_curve([*(decision(h) for h in range(5)), *chosen])
    curves = [e.attrib["d"] for e in drawn(figure).iter() if e.attrib.get("class") == "curve"]
    assert [curve.count("L") + 1 for curve in curves] == [5, 4]


def test_an_interval_stays_on_its_scale_and_shades_what_is_beyond() -> None:
    root = drawn(figures.forest(Effect(0.5, -3.0, 3.0), 0.1, limit=-0.05, side="min"))
    numbers = [float(v) for e in root.iter() for k, v in e.attrib.items() if k in ("x1", "x2", "cx")]
    assert min(numbers) >= 0.0
    assert max(numbers) <= 240.0
    beyond = next(e for e in root.iter() if e.attrib.get("class") == "beyond")
    assert (float(beyond.attrib["x"]), float(beyond.attrib["width"])) == (4.0, 58.0)
    assert "reach" not in figures.forest(UNKNOWN, 0.1)


def test_a_bar_is_filled_by_its_part() -> None:
    for part, width in ((0.0, 0.0), (0.5, 58.0), (1.0, 116.0), (1.4, 116.0)):
        rects = [e for e in drawn(figures.bar(part)).iter() if e.attrib.get("class") == "bar"]
        assert float(rects[0].attrib["width"]) == width


def a_slice(curves: int = 1) -> Slice:
    values = tuple(0.1 * 10 ** (2 * k / 32) for k in range(33))
    one = tuple(0.02 * math.log10(v) for v in values)
    return Slice("watch", "p_<watch>", values, tuple(Curve(f"s{k}", 1.0, one, (0.01,) * 33) for k in range(curves)))


def test_a_slice_puts_the_vector_on_its_curve() -> None:
    one = a_slice()
    bounds = figures.slice_bounds([one])
    assert bounds[0] <= -0.02 < 0.02 <= bounds[1]
    root = drawn(figures.slice_figure(one, True, 1.0, [-0.01], bounds))
    dot = next(e for e in root.iter() if e.attrib.get("class") == "dot")
    assert float(dot.attrib["cx"]) == pytest.approx((50 + 252) / 2)
    zero = next(e for e in root.iter() if e.attrib.get("class") == "zero")
    assert float(dot.attrib["cy"]) == pytest.approx(float(zero.attrib["y1"]))
    assert "p_<watch>" in [e.text for e in root.iter()], "a name is text, whatever it holds"


def test_segments_have_a_curve_each_and_no_band() -> None:
    figure = figures.slice_figure(a_slice(3), True, 1.0, [], (-0.1, 0.1))
    assert (figure.count('class="curve'), figure.count('class="band"')) == (3, 0)


@pytest.mark.parametrize("bounds", [(-0.1, 0.1), (0.0, 0.004)])
def test_nothing_leaves_the_panel(bounds: tuple[float, float]) -> None:
    root = drawn(figures.slice_figure(a_slice(), True, 1.0, [5.0], bounds))
    for path in (e.attrib["d"] for e in root.iter() if "d" in e.attrib):
        points = [p.split() for p in path.strip("MZ").split("L")]
        assert all(0 <= float(x) <= 260 and 20 <= float(y) <= 142 for x, y in points)
