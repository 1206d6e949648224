"""The measurement of `nas` as tables."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks._nas_quality import Quality
from benchmarks._nas_ranking import Rankings
from benchmarks._nas_value import Captured
from nas.compare import Gap

WIDTH = 130


def show(ranked: Rankings, captured: Sequence[Captured], quality: Quality, seconds: float) -> None:
    """Print everything."""
    console = Console(width=WIDTH)
    tables = (*_rankings(ranked), _captured(captured), _levels(quality), _random(quality), _test(quality),
              _candidates(quality), _trees(quality))  # fmt: skip
    for table in tables:
        if table.row_count:
            console.print(table)
    cost = quality.cost
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


def _random(quality: Quality) -> Table:
    table = Table("within FLOPs", "evolution", "random, through the supernet", "random, trained alone",
                  title="validation loss of the picks, mean over searches")  # fmt: skip
    for one in quality.random:
        alone = f"{one.alone:.5f} (of {one.alone_nets})"
        table.add_row(f"{one.level:g} x", f"{one.evolution:.5f}", f"{one.through_supernet:.5f}", alone)
    return table


def _test(quality: Quality) -> Table:
    table = Table("finalist", "FLOPs", "logloss", "KL", "KL by head", title="test rows, means over seeds")
    for one in sorted(quality.test, key=lambda one: one.logloss):
        heads = " ".join(f"{kl:.5f}" for kl in one.kl_by_head)
        table.add_row(one.name, f"{one.flops:,.0f}", f"{one.logloss:.5f}", f"{one.kl:.6f}", heads)
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


def gap_text(gap: Gap, digits: int) -> str:
    """A gap and its interval."""
    return f"{gap.mean:.{digits}f} [{gap.low:.{digits}f}, {gap.high:.{digits}f}]"
