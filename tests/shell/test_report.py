import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from msgspec import structs
from playwright.sync_api import Browser

from controller import cli
from controller.core.estimate import Metric
from controller.core.safety import Guardrail
from controller.shell.findings import Findings, findings
from controller.shell.report import drawn, metric_rows, page, slice_rows, text
from tests.core.loop import Loop, at_stage, indifferent, varied
from tests.shell.test_findings import journalled

EVIL = '<script>alert(1)</script> & "quotes"'


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    loop = at_stage("hold")
    loop.windows(2)
    loop.order("pause", EVIL)
    loop.order("resume")
    loop.window()
    return findings(journalled(loop, tmp_path_factory.mktemp("held") / "hand.journal"))


class _Seen(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        self.links += [v for k in ("href", "src") if (v := found.get(k)) is not None]
        self.ids += [v for k, v in found.items() if k == "id" and v is not None]


def test_the_page_needs_nothing_beside_it(held: Findings) -> None:
    seen = _Seen(page(held))
    assert not {"script", "link", "img", "iframe"} & set(seen.tags)
    assert all(link.startswith("#") and link[1:] in seen.ids for link in seen.links)
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org)", page(held))


def test_the_answer_comes_first_and_everything_asked_for_is_there(held: Findings) -> None:
    html = page(held)
    order = [
        html.index(f'id="{part}"')
        for part in ("answer", "vector", "effects", "way", "slices", "quality", "log", "plan")
    ]
    assert order == sorted(order)
    assert held.verdict.headline in html
    for expected in (held.plan_digest, held.head, "seed 7", "p_watch", "95 % interval", "Importance"):
        assert expected in html
    assert html.count("<svg") >= 3 + 2 + 4


def test_a_guardrail_stands_beside_its_metric_though_the_share_is_new(held: Findings) -> None:
    assert held.measured is None or held.measured.what == "exploring", "the share is new"
    (row,) = (row for row in metric_rows(held) if row.name == "ctr")
    assert row.rail is not None
    assert (row.rail.side, row.rail.limit) == ("min", -0.05)
    assert "as measured at the last share" in page(held)


def test_each_side_of_a_guardrail_has_a_row(held: Findings) -> None:
    assert held.plan is not None
    below = Guardrail(metric="ctr", max_change=0.5)
    plan = structs.replace(held.plan, guardrails=(*held.plan.guardrails, below))
    both = structs.replace(held, plan=plan)
    assert [row.rail.side for row in metric_rows(both) if row.rail is not None] == ["min", "max"]
    assert {"metric-ctr-min.svg", "metric-ctr-max.svg"} <= drawn(both).keys()


def test_what_people_type_is_text(held: Findings) -> None:
    html = page(held)
    assert "<script>" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert EVIL in "\n".join(text(held))


def test_the_figures_are_files_of_their_own(held: Findings) -> None:
    made = drawn(held)
    assert {"gain.svg", "slice-watch-p_watch.svg", "slice-ctr-p_share.svg", "metric-objective.svg"} <= made.keys()
    for figure in made.values():
        assert ET.fromstring(figure).tag.endswith("svg")


def test_every_figure_has_a_file_whatever_its_metric_is_called(tmp_path: Path) -> None:
    names = {"\u70b9\u51fb": "clicks", "\u89c2\u770b": "watch_s", "a b": "watch_s", "a/b": "clicks"}
    metrics = tuple(Metric(name, component, "impressions") for name, component in names.items())
    loop = Loop(varied(metrics=metrics, objective=dict.fromkeys(names, 1.0), guardrails=()))
    loop.windows(2)
    found = findings(journalled(loop, tmp_path / "j"))
    made, slices = drawn(found), [panel for _, panels in slice_rows(found) for panel in panels]
    assert len(made) == len(slices) + len(metric_rows(found)) + ("gain.svg" in made)
    assert {"metric-\u70b9\u51fb.svg", "metric-a_b.svg", "metric-a_b-2.svg"} <= made.keys()


def test_a_study_without_a_vector_has_a_page_too(tmp_path: Path) -> None:
    loop = Loop(truth=indifferent)
    empty = page(findings(journalled(loop, tmp_path / "j")))
    assert "This study has decided nothing yet." in empty
    loop.window()
    assert "Data quality" in page(findings(journalled(loop, tmp_path / "k")))


def test_a_study_with_segments_shows_each(tmp_path: Path) -> None:
    loop = Loop(varied(segments=("new", "old")))
    loop.until("confirm")
    loop.windows(1)
    html = page(findings(journalled(loop, tmp_path / "j")))
    assert 'id="segments"' in html
    assert html.count('class="curve') >= 8


def test_the_command_writes_a_page_its_figures_text_and_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = at_stage("confirm")
    loop.window()
    path = journalled(loop, tmp_path / "hand.journal")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", str(path), "--figures", "figures"]) == 0
    assert re.match(r"hand\.html \(\d+ KB\): c\d+ is being tested", capsys.readouterr().out)
    assert (tmp_path / "hand.html").read_text().startswith("<!doctype html>")
    assert (tmp_path / "figures" / "gain.svg").exists()
    assert cli.main(["report", str(path), "--out", "-"]) == 0
    assert capsys.readouterr().out.startswith("<!doctype html>")
    assert cli.main(["report", str(path), "--text"]) == 0
    assert "how it got there:" in capsys.readouterr().out
    assert cli.main(["report", str(path), "--out", "figures"]) == 1
    assert "name another place by --out" in capsys.readouterr().err


def test_nothing_in_it_keeps_people_out(held: Findings, tmp_path: Path, browser: Browser) -> None:
    (tmp_path / "report.html").write_text(page(held))
    for scheme in ("light", "dark"):
        for width in (1440, 390):
            tab = browser.new_context(
                color_scheme=scheme,
                viewport={"width": width, "height": 900},
                bypass_csp=True,  # axe is a script, which the page allows none of
            ).new_page()
            tab.goto((tmp_path / "report.html").as_uri())
            for summary in tab.locator("summary").all():
                summary.click()
            found = Axe().run(tab).response["violations"]
            assert [
                f"{v['id']}: {v['nodes'][0]['html']}" for v in found if v["impact"] in ("serious", "critical")
            ] == []
            assert tab.evaluate("document.documentElement.scrollWidth") == width
            tab.context.close()


def test_a_reason_without_a_space_does_not_stick_out(tmp_path: Path, browser: Browser) -> None:
    loop = at_stage("explore")
    loop.window()
    loop.order("pause", f"https://tracker.example.org/{'incident_' * 20}")
    (tmp_path / "x.html").write_text(page(findings(journalled(loop, tmp_path / "j"))), encoding="utf-8")
    tab = browser.new_context(viewport={"width": 390, "height": 900}).new_page()
    tab.goto((tmp_path / "x.html").as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    tab.context.close()
