"""The measurement of `nas` as tables."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks._nas_quality import Quality
from benchmarks._nas_ranking import Rankings
from benchmarks._nas_test_rows import Head, Line, Versus
from benchmarks._nas_value import THETAS, Captured
from nas.compare import Gap

WIDTH = 150  # seven heads


def show(ranked: Rankings | None, captured: Sequence[Captured], quality: Quality | None, seconds: float) -> None:
    """Print everything."""
    console = Console(width=WIDTH)
    tables = [*_rankings(ranked), _captured(captured)] if ranked else []
    if quality:
        tables += [_levels(quality), _captured_by_level(quality), _random(quality)]
        tables += [*tested(quality.test, quality.gaps, quality.best), _candidates(quality), _trees(quality)]
    for table in tables:
        if table.row_count:
            console.print(table)
    if quality and (cost := quality.cost):
        print(
            f"a search cost {cost.trainings:.1f} trainings: {cost.supernet:.1f} of rows for its supernet (in seconds "
            f"{cost.supernet_seconds:.1f}), {cost.evaluation:.1f} for evaluating, {cost.finalists:.1f} finalists alone"
        )
    print(f"this call took {seconds:.0f} s")


def _rankings(ranked: Rankings) -> tuple[Table, Table]:
    ways = Table("ranked by", "tau", "in the best half", "regret at 5", "rows", title="against networks trained alone")
    for one in ranked.ways:
        ways.add_row(
            one.name, gap_text(one.tau, 2), gap_text(one.tau_best_half, 2), f"{one.regret_at_5:.5f}", f"{one.rows:,}"
        )
    paired = Table("ranked by", "minus", "tau", title="paired over networks")
    for difference in ranked.differences:
        paired.add_row(difference.first, difference.second, gap_text(difference.tau, 2))
    return ways, paired


def _captured(captured: Sequence[Captured]) -> Table:
    table = Table("theta", "weights of losses", "value captured", "more than equal weights", title="co-training")
    for share in captured:
        table.add_row(
            share.theta, share.weighting, f"{share.captured:.4f}", gap_text(share.gain, 4) if share.gain else ""
        )
    return table


def _levels(quality: Quality) -> Table:
    table = Table("within FLOPs", "search", "its pick", "best baseline", "logloss gap", "KL gap",
                  title="a search's pick minus the best baseline, test rows")  # fmt: skip
    for level in quality.levels:
        table.add_row(
            f"{level.level:g} x: {level.flops:,.0f}", str(level.search),
            f"{level.searched} ({level.searched_flops:,.0f})", f"{level.baseline} ({level.baseline_flops:,.0f})",
            gap_text(level.gap, 5), gap_text(level.kl_gap, 5),
        )  # fmt: skip
    return table


def _captured_by_level(quality: Quality) -> Table:
    table = Table("within FLOPs", "search", *THETAS,
                  title="value captured: a search's pick minus the best baseline, test rows")  # fmt: skip
    for level in quality.levels:
        gaps = (gap_text(gap, 4) for gap in level.captured.values())
        table.add_row(f"{level.level:g} x", str(level.search), *gaps)
    return table


def _random(quality: Quality) -> Table:
    table = Table("within FLOPs", "evolution", "random, through the supernet", "random, trained alone",
                  title="validation loss of the picks, mean over searches")  # fmt: skip
    for one in quality.random:
        alone = f"{one.alone:.5f} (of {one.alone_nets})"
        table.add_row(f"{one.level:g} x", f"{one.evolution:.5f}", f"{one.through_supernet:.5f}", alone)
    return table


def _candidates(quality: Quality) -> Table:
    table = Table("candidate", "FLOPs", "validation loss", "seeds", "rate", title="everyone, by validation")
    for c in sorted(quality.candidates, key=lambda c: c.loss):
        table.add_row(c.name, f"{c.flops:,.0f}", f"{c.loss:.5f}", str(len(c.losses)), f"{c.rate:g}")
    return table


def _trees(quality: Quality) -> Table:
    table = Table("head", "logloss", "KL", "AUC", "leaves", "rounds", title="LightGBM, test rows")
    for one in quality.trees:
        kl, area = ("" if value is None else f"{value:.5f}" for value in (one.kl, one.auc))
        table.add_row(one.head, f"{one.logloss:.5f}", kl, area, str(one.leaves), str(one.rounds))
    return table


def tested(lines: Sequence[Line], gaps: Sequence[Versus], best: str) -> tuple[Table, ...]:
    """Every model on the test rows, and gaps."""
    return *_models(lines), *_gaps(gaps, best)


def _models(lines: Sequence[Line]) -> tuple[Table, Table, Table]:
    models = Table("model", "FLOPs", "rate", "seeds", "validation", "logloss", "KL",
                   *(f"captured: {name}" for name in lines[0].captured),
                   title="test rows, means over seeds; KL and value over all candidates")  # fmt: skip
    names = [f"{head.head} ({head.positives:,})" for head in lines[0].heads]
    divergences = Table("KL", *names, title="all candidates, by head (positives)")
    shown = Table("calibration, its error, AUC", *names, title="shown rows, by head (positives)")
    for one in sorted(lines, key=lambda one: one.logloss):
        models.add_row(
            one.name, f"{one.flops:,.0f}", f"{one.rate:g}", str(len(one.losses)),
            f"{sum(one.losses) / len(one.losses):.5f}", f"{one.logloss:.5f}", f"{one.kl:.6f}",
            *(f"{share:.4f}" for share in one.captured.values()),
        )  # fmt: skip
        divergences.add_row(one.name, *(f"{head.kl:.5f}" for head in one.heads))
        shown.add_row(one.name, *(_shown(head) for head in one.heads))
    return models, divergences, shown


def _shown(head: Head) -> str:
    calibration = "none" if head.calibration is None else f"{head.calibration:.3f}"
    area = "" if head.auc is None else f"\n{head.auc:.4f}"
    return f"{calibration} {head.calibration_error:.5f}{area}"


def _gaps(gaps: Sequence[Versus], best: str) -> tuple[Table, Table, Table]:
    over, heads, value = (
        Table("model", "minus", *columns, title=title)
        for columns, title in (
            (("logloss", "KL"), f"gaps, paired over people and seeds; best baseline by validation: {best}"),
            ([*gaps[0].kl_by_head], "KL gaps by head, in thousandths"),
            ([*gaps[0].captured], "value captured: gaps"),
        )
    )
    for one in gaps:
        over.add_row(one.name, one.baseline, gap_text(one.logloss, 5), gap_text(one.kl, 6))
        heads.add_row(one.name, one.baseline, *_thousandths(one))
        value.add_row(one.name, one.baseline, *(gap_text(gap, 4) for gap in one.captured.values()))
    return over, heads, value


def _thousandths(one: Versus) -> list[str]:
    return [f"{1e3 * g.mean:.2f}\n[{1e3 * g.low:.2f}, {1e3 * g.high:.2f}]" for g in one.kl_by_head.values()]


def gap_text(gap: Gap, digits: int) -> str:
    """A gap and its interval."""
    return f"{gap.mean:.{digits}f} [{gap.low:.{digits}f}, {gap.high:.{digits}f}]"
