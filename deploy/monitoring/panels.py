"""A dashboard as data, and Grafana's JSON of it."""

import json
from collections.abc import Callable
from itertools import count
from typing import Any, Literal

import msgspec
from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as looks
from grafana_foundation_sdk.models import dashboard as grafana
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

Kind = Literal["lines", "stacked", "number", "name", "bars", "states", "table"]
Unit = Literal["short", "percentunit", "s", "bytes", "Bps", "ops", "none"]
_STUDY = "{{study}}"  # a legend's word for the label
SOURCE = grafana.DataSourceRef(type_val="prometheus", uid="${source}")


class Query(msgspec.Struct, frozen=True):
    """PromQL, and how its series are called; on a page of several studies the study's name goes before it."""

    expr: str
    legend: str = "{{study}}"


class Panel(msgspec.Struct, frozen=True):
    """One panel: `width` of 24 columns; `steps`: colours from a value on, the first from below everything."""

    title: str
    text: str
    kind: Kind
    queries: tuple[Query, ...]
    unit: Unit = "short"
    width: int = 8
    height: int = 7
    steps: tuple[tuple[float | None, str], ...] = ((None, "text"),)
    values: tuple[tuple[int, str, str], ...] = ()  # value, the word for it, its colour


class Row(msgspec.Struct, frozen=True):
    """Panels under a heading."""

    title: str
    panels: tuple[Panel, ...]


class Dashboard(msgspec.Struct, frozen=True):
    """A page. `about`: what it answers; `one_study`: its panels would mix several."""

    uid: str
    title: str
    about: str
    rows: tuple[Row, ...]
    one_study: bool = False


def rendered(page: Dashboard) -> str:
    """The JSON that Grafana reads from a file."""
    builder = (
        dashboard.Dashboard(page.title)
        .uid(page.uid)
        .description(page.about)
        .tags(["trimtab"])
        .timezone("browser")
        .readonly()
        .refresh("30s")
        .time("now-24h", "now")
        .tooltip(grafana.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("source").label("data source").type("prometheus"))
        .with_variable(_studies(page))
        .link(
            dashboard.DashboardLink("Trimtab")
            .type(grafana.DashboardLinkType.DASHBOARDS)
            .tags(["trimtab"])
            .keep_time(True)
            .include_vars(True)
        )
    )
    ids = count(1)
    for row in page.rows:
        builder = builder.with_row(dashboard.Row(row.title).id(next(ids)))
        for panel in row.panels:
            builder = builder.with_panel(_panel(panel, page.one_study).id(next(ids)))
    return json.dumps(builder.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def _studies(page: Dashboard) -> Any:
    studies = (
        dashboard.QueryVariable("study")
        .label("study")
        .datasource(SOURCE)
        .query("label_values(trimtab_build_info, study)")
        .refresh(grafana.VariableRefresh.ON_TIME_RANGE_CHANGED)
    )
    return studies if page.one_study else studies.include_all(True).all_value(".*")


def _panel(panel: Panel, one_study: bool) -> Any:
    builder: Any = _KINDS[panel.kind]()
    builder = builder.title(panel.title).description(panel.text).datasource(SOURCE).unit(panel.unit)
    builder = builder.span(panel.width).height(panel.height)
    builder = builder.thresholds(
        dashboard.ThresholdsConfig().steps(
            [grafana.Threshold(value=value, color=color) for value, color in panel.steps]
        )
    )
    if panel.values:
        words = {str(v): grafana.ValueMappingResult(text=word, color=color) for v, word, color in panel.values}
        builder = builder.mappings([grafana.ValueMap(options=words)])
    if panel.kind == "table":
        columns = _columns(panel, one_study)
        builder = builder.with_transformation(grafana.DataTransformerConfig(id_val="merge", options={}))
        builder = builder.with_transformation(grafana.DataTransformerConfig(id_val="organize", options=columns))
    for query in panel.queries:
        builder = builder.with_target(_target(panel, query, one_study))
    return builder


def _target(panel: Panel, query: Query, one_study: bool) -> Any:
    legend = query.legend if one_study or _STUDY in query.legend else f"{_STUDY} {query.legend}"
    target = prometheus.Dataquery().expr(query.expr).ref_id(_ref(panel, query)).legend_format(legend)
    if panel.kind == "table":
        return target.instant().format(PromQueryFormat.TABLE)
    return target.instant() if panel.kind in ("bars", "name") else target.range()


def _ref(panel: Panel, query: Query) -> str:
    return "ABCDEFGH"[panel.queries.index(query)]


def _columns(panel: Panel, one_study: bool) -> dict[str, object]:
    """A table without what Prometheus adds, its value columns called by their queries' legends."""
    hidden = ("Time", "__name__", "instance", "job", *(("study",) if one_study else ()))
    names = {f"Value #{_ref(panel, query)}": query.legend for query in panel.queries}
    return {"excludeByName": dict.fromkeys(hidden, True), "renameByName": names}


def _lines() -> Any:
    legend = (
        common.VizLegendOptions().display_mode(looks.LegendDisplayMode.LIST).placement(looks.LegendPlacement.BOTTOM)
    )
    shown = timeseries.Panel().legend(legend.show_legend(True)).show_points(looks.VisibilityMode.NEVER).line_width(1)
    return shown.tooltip(common.VizTooltipOptions().mode(looks.TooltipDisplayMode.MULTI))


def _stacked() -> Any:
    return _lines().stacking(common.StackingConfig().mode(looks.StackingMode.NORMAL)).fill_opacity(40)


def _last() -> Any:
    return common.ReduceDataOptions().calcs(["lastNotNull"])


def _number() -> Any:
    return stat.Panel().reduce_options(_last()).graph_mode(looks.BigValueGraphMode.NONE)


def _name() -> Any:
    return _number().text_mode(looks.BigValueTextMode.NAME).graph_mode(looks.BigValueGraphMode.NONE)


def _bars() -> Any:
    return bargauge.Panel().orientation(looks.VizOrientation.HORIZONTAL).reduce_options(_last())


def _states() -> Any:
    return statetimeline.Panel().show_value(looks.VisibilityMode.NEVER).row_height(0.8)


_KINDS: dict[Kind, Callable[[], Any]] = {
    "lines": _lines,
    "stacked": _stacked,
    "number": _number,
    "name": _name,
    "bars": _bars,
    "states": _states,
    "table": table.Panel,
}
