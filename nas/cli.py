"""`trimtab nas`: design a ranking model offline."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from nas.layouts import LAYOUTS, Layout
from nas.schema import DataError
from nas.space import SPACES, cardinality, drawn

FAILED, MISUSED = 1, 2
FINALISTS = 5
FIGURES = (".png", ".svg", ".pdf")


def nas(argv: list[str]) -> int:
    """Design the ranking model: train, search, retrain, evaluate, score, export, space."""
    args = _parsed(argv)
    if find_spec("torch") is None or find_spec("onnxruntime") is None:
        return _say("not installed: pip install 'trimtab[nas]'", FAILED)
    from nas.export import ExportWrong
    from nas.search import AnotherSearch
    from nas.supernet_train import AnotherSupernet
    from nas.train import AnotherRun

    try:
        _refuse_nowhere(args)
        command: Callable[[argparse.Namespace], int] = args.command
        with ExitStack() as args.using:
            return command(args)
    except (AnotherRun, AnotherSearch, AnotherSupernet, DataError) as error:
        print(f"trimtab nas: {error}", file=sys.stderr)
        return MISUSED
    except OSError as error:
        what = " and ".join(str(name) for name in (error.filename, error.filename2) if name)
        print(f"trimtab nas: {what or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return MISUSED
    except (ExportWrong, ValueError) as error:
        print(f"trimtab nas: {error}", file=sys.stderr)
        return FAILED


def _refuse_nowhere(args: argparse.Namespace) -> None:
    """A file that cannot be written is told before the work that fills it."""
    wanted = ["figure", "onnx", *(["out"] if args.command is _score else [])]
    for name in wanted:
        path = getattr(args, name, None)
        if path is not None and not path.absolute().parent.is_dir():
            raise DataError(f"--{name}: found {path}; there is no folder {path.absolute().parent}")
        if path is not None and name == "figure" and path.suffix not in FIGURES:
            raise DataError(f"--figure: found {path}; expected a name that ends in {', '.join(FIGURES)}")


def _parsed(argv: list[str]) -> argparse.Namespace:
    """Arguments in any order: a command's parser alone takes files that stand behind an option too."""
    parser, commands = _parsers()
    if argv and argv[0] in commands:
        return commands[argv[0]].parse_intermixed_args(argv[1:])
    return parser.parse_args(argv)


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser, and those of its commands."""
    parser = argparse.ArgumentParser(prog="trimtab nas", description=nas.__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    train = _command(commands, "train", _train, "train the supernet, or one model (--model)")
    train.add_argument("--model", metavar="NAME|FILE", help="a baseline's name, or a genotype's file")
    train.add_argument("--seed", type=seed, default=0, help="of a --model's training (0)")
    search = _command(commands, "search", _search, "search the space through the supernet")
    search.add_argument(
        "--workers", type=count, default=1, metavar="N", help="processes; any number gives the same (1)"
    )
    search.add_argument("--figure", type=Path, metavar="PNG", help="draw the front")
    retrain = _command(commands, "retrain", _retrain, "train a winner from scratch with several seeds")
    which = retrain.add_mutually_exclusive_group()
    which.add_argument(
        "--finalists",
        type=count,
        metavar="N",
        help="train N of the search and the best two enlarged; retrain the best",
    )
    which.add_argument("--pick", type=int, default=0, metavar="N", help="which of the front (0, of least loss)")
    which.add_argument("--genotype", metavar="FILE", help="instead of one that was searched")
    retrain.add_argument("--seeds", type=count, metavar="N", help="(the design's retrain.seeds)")
    evaluate = _command(commands, "evaluate", _evaluate, "metrics of trained models on the test rows, and their gaps")
    evaluate.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="folders of runs (all of the design's)")
    export = _command(commands, "export", _export, "write a model as ONNX, checked, with its card")
    export.add_argument("run", type=Path, metavar="RUN")
    export.add_argument("--onnx", type=Path, default=Path("model.onnx"), metavar="FILE", help="(model.onnx)")
    _score_parser(commands)
    _space_parser(commands)
    return parser, dict(commands.choices)


def _command(commands: Any, name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.add_argument("design", type=Path, metavar="DESIGN.toml")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where everything is kept (DESIGN.nas beside the file)")
    parser.add_argument("--json", action="store_true", help="print data instead of text")
    parser.add_argument(
        "--threads",
        type=count,
        default=1,
        metavar="N",
        help="of torch (1: the same bits whatever the machine's cores)",
    )
    parser.set_defaults(command=run)
    return parser


def _score_parser(commands: Any) -> None:
    text = "predict for new rows, with a model's own preprocessing"
    parser = commands.add_parser("score", help=text, description=text)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--layout", choices=LAYOUTS, help="of the files (parquet)")
    parser.add_argument("--header", default="", metavar="A,B,...", help="column names of files that have none")
    parser.add_argument("--out", type=Path, default=Path("scores.parquet"), metavar="FILE", help="(scores.parquet)")
    parser.set_defaults(command=_score)


def _space_parser(commands: Any) -> None:
    text = "the search space and how many networks it holds; a genotype drawn"
    parser = commands.add_parser("space", help=text, description=text)
    parser.add_argument("--preset", choices=tuple(SPACES), default="full")
    parser.add_argument("--genotype", metavar="FILE", help="to draw; one drawn by --seed without it")
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument("--figure", type=Path, metavar="PNG", help="draw the genotype as a graph")
    parser.add_argument("--json", action="store_true", help="print data instead of text")
    parser.set_defaults(command=_space)


def _train(args: argparse.Namespace) -> int:
    from nas import workplace

    architecture = workplace.architecture_named(args.model) if args.model else None
    place = _place(args)
    if architecture is not None:
        with progress(args, "rows") as update:
            run, folder = workplace.trained(
                place, architecture, args.seed, Path(args.model).stem, say=lambda done, rows: update(done, rows, "")
            )
        return _show_runs(args, place, [(folder, run.record)])
    with progress(args, "rows") as update:
        record = workplace.supernet(place, lambda done, rows, loss: update(done, rows, f"loss {loss:.4f}"))
    if args.json:
        print(msgspec.json.encode(record).decode())
    else:
        print(
            f"supernet {record.digest}: {record.rows:,} rows in {record.seconds:.0f} s, loss of late {record.loss:.4f}"
        )
        if record.skipped:
            print(f"{record.skipped:,} steps skipped: their gradients had left the range of fp32")
        print(f"kept in {place.folder / 'supernet'}; next: trimtab nas search {args.design}")
    return 0


def _search(args: argparse.Namespace) -> int:
    from nas import workplace
    from nas.evolution import front
    from nas.figures import draw_front

    place = _place(args)
    count = place.design.tables.search.evaluations
    with progress(args, "networks") as update:
        rules, found = workplace.searched(
            place, args.workers, lambda some: update(len(some), count, f"loss {min(one.loss for one in some):.4f}")
        )
    best = front(rules, found)
    if not best:
        return _say(workplace.beyond(place, rules, found), FAILED)
    with Console(stderr=True, quiet=args.json).status("timing the best of the front"):
        timings = workplace.finalists_measured(place, best[:FINALISTS])
    if args.figure:
        draw_front(rules, found, args.figure)
    if args.json:
        print(msgspec.json.encode({"front": best, "measured": timings}).decode())
        return 0
    table = Table("#", "loss", "FLOPs a row", "parameters", "p50 ms", "p99 ms", title=f"front of {len(found)} networks")
    for number, one in enumerate(best):
        taken = timings.get(one.index)
        ms = (f"{taken.p50_ms:.2f}", f"{taken.p99_ms:.2f}") if taken else ("", "")
        table.add_row(str(number), f"{one.loss:.5f}", f"{one.sizes.flops:,.0f}", f"{one.sizes.parameters:,}", *ms)
    Console().print(table)
    print(f"next: trimtab nas retrain {args.design} --finalists {FINALISTS}, or --pick 0")
    return 0


def _retrain(args: argparse.Namespace) -> int:
    from nas import workplace

    given = workplace.architecture_named(args.genotype, "--genotype") if args.genotype else None
    place = _place(args)
    architecture, name = (given, Path(args.genotype).stem) if given is not None else _to_retrain(args, place)
    seeds = args.seeds or place.design.tables.retrain.seeds
    runs: list[tuple[Path, Any]] = []
    with progress(args, "seeds") as update:

        def say(share: float) -> None:
            update(len(runs) + share, seeds, f"loss {runs[-1][1].best.valid.loss:.5f}" if runs else "")

        for seed in range(seeds):
            run, folder = workplace.trained(place, architecture, seed, name, say=lambda row, rows: say(row / rows))
            runs.append((folder, run.record))
            say(0)
    return _show_runs(args, place, sorted(runs, key=lambda one: one[1].best.valid.loss))


def _to_retrain(args: argparse.Namespace, place: Any) -> tuple[Any, str]:
    """An architecture of the search, and the name of its runs."""
    from nas import workplace

    if not args.finalists:
        return workplace.picked(place, args.pick), f"pick{args.pick}"
    with progress(args, "trainings of finalists") as update:
        best = workplace.best_finalist(
            place, args.finalists, lambda done, all_, loss: update(done, all_, f"loss {loss:.5f}" if done >= 1 else "")
        )
    return best.genotype, workplace.named(best)


def _evaluate(args: argparse.Namespace) -> int:
    from nas import workplace
    from nas.score import read_model
    from nas.train import on_test_rows

    place = _place(args)
    given = args.runs or sorted(path.parent for path in (place.folder / "runs").glob("*/record.json"))
    folders = [*{folder.resolve(): folder for folder in given}.values()]  # one that is named twice is no second seed
    if not folders:
        raise DataError(f"{place.folder / 'runs'}: there are no runs; `trimtab nas retrain` makes some")
    records, groups = [], dict[str, list[Any]]()
    for folder, model in zip(folders, _models(folders), strict=True):
        run, _ = read_model(folder)
        if run.record.data_digest != place.parts.digest:
            raise DataError(f"{folder}: was trained on other data than {args.design} names")
        record, q = on_test_rows(run, place.parts, place.head_weights, place.value)
        records.append((folder, record))
        groups.setdefault(model, []).append(q)
    first, *others = groups
    gaps = {
        f"{first} - {other}": {
            head: workplace.gap(groups[first], groups[other], place.parts.test, j) for j, head in enumerate(place.heads)
        }
        for other in others
    }
    _show_runs(args, place, records, gaps)
    return 0


def _models(folders: Sequence[Path]) -> list[str]:
    """Of which model each run is a seed; equal names in several folders are several models, told by their folders."""
    stems = [folder.name.rpartition("-seed")[0] or folder.name for folder in folders]
    places = dict[str, set[Path]]()
    for folder, stem in zip(folders, stems, strict=True):
        places.setdefault(stem, set()).add(folder.resolve().parent)
    return [
        stem if len(places[stem]) == 1 else str(folder.parent / stem)
        for folder, stem in zip(folders, stems, strict=True)
    ]


def _export(args: argparse.Namespace) -> int:
    from nas.export import export
    from nas.score import read_model

    run, _ = read_model(args.run)
    parts = _place(args).parts
    if run.record.data_digest != parts.digest:
        raise DataError(f"{args.run}: was trained on other data than {args.design} names")
    card = export(run, parts, args.onnx)
    if args.json:
        print(msgspec.json.encode(card).decode())
    else:
        print(f"{args.onnx}: takes {', '.join(card.inputs)}; gives probabilities of {', '.join(card.heads)}")
        print(f"onnxruntime differs from torch by at most {card.largest_difference:.1e}")
    return 0


def _score(args: argparse.Namespace) -> int:
    from nas.design_file import LAID_OUT
    from nas.readers import Source
    from nas.score import read_model, write_scores

    run, encoding = read_model(args.run)
    if args.out.resolve() in {Path(file).resolve() for file in args.files}:
        raise DataError(f"--out: found {args.out}, one of the files to be scored; name another file")
    for file in args.files:
        kind = Path(file.removesuffix(".gz")).suffix.removeprefix(".")
        if args.layout is None and kind in ("csv", "tsv"):
            raise DataError(f"{file}: is read as Parquet without --layout; expected --layout {kind}, or another one")
    layout: Layout = args.layout or "parquet"
    if args.header and layout not in LAID_OUT["header"]:
        raise DataError(f"--header: belongs to files of layout {', '.join(LAID_OUT['header'])}; found {layout!r}")
    header = tuple(args.header.split(",")) if args.header else ()
    rows = write_scores(run, encoding, Source(layout, tuple(args.files), header), args.out, _tell)
    print(f"{args.out}: {rows:,} rows, {', '.join(head.name for head in encoding.schema.heads)}")
    return 0


def _space(args: argparse.Namespace) -> int:
    from nas import workplace
    from nas.figures import draw_genotype
    from nas.genotype import Genotype, digest, encoded

    space = SPACES[args.preset]
    found = (
        workplace.architecture_named(args.genotype, "--genotype")
        if args.genotype
        else drawn(space, np.random.default_rng(args.seed))
    )
    if not isinstance(found, Genotype):
        raise DataError(f"--genotype: {args.genotype} is a baseline")
    if args.figure:
        draw_genotype(found, args.figure)
    if args.json:
        print(json.dumps({"space": msgspec.to_builtins(space), "networks": str(cardinality(space)),
                          "genotype": msgspec.to_builtins(found)}))  # fmt: skip
        return 0
    for name in space.__struct_fields__:
        print(f"{name:<13} {getattr(space, name)}")
    print(f"{'networks':<13} {cardinality(space):.3e}")
    print(f"\ngenotype {digest(found)}:\n{encoded(found).decode()}")
    return 0


def _place(args: argparse.Namespace) -> Any:
    import torch

    from nas.design_file import load
    from nas.workplace import opened

    torch.set_num_threads(args.threads)
    design = load(args.design)
    console = Console(stderr=True, quiet=args.json)
    with console.status("reading the data") as status:
        return opened(design, args.out or args.design.with_suffix(".nas"), status.update, _tell, args.using)


@contextmanager
def progress(args: argparse.Namespace, what: str) -> Iterator[Callable[[float, int, str], None]]:
    """A bar on standard error; what it yields takes how much is done, of how much, and a text."""
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(what),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True, quiet=args.json)) as bar:
        task = bar.add_task("", total=None)
        try:
            yield lambda done, total, text: bar.update(  # a last batch goes beyond the rows asked for
                task, completed=min(done, total), total=total, description=text
            )
        except BaseException:
            bar.update(task, visible=bar.tasks[0].completed > 0)  # work that never began has no bar above its refusal
            raise


def _show_runs(args: argparse.Namespace, place: Any, runs: Sequence[tuple[Path, Any]], gaps: Any = None) -> int:
    """Records as a table: validation, or test where it was read."""
    if args.json:
        judge = {"head_weights": dict(zip(place.heads, place.head_weights, strict=True)), "value": place.value}
        found = {"runs": {str(f): record for f, record in runs}, "gaps": gaps or {}, "judged_by": judge}
        print(msgspec.json.encode(found).decode())
        return 0
    part = "test" if gaps is not None else "validation"
    measured = [record.test if gaps is not None else record.best.valid for _, record in runs]
    valued = "value captured" if any(metrics.value_captured is not None for metrics in measured) else "value GAUC"
    table = Table("run", "FLOPs", "loss", valued, "head", "logloss", "AUC", title=part)
    table.columns[0].no_wrap = True
    for (folder, record), metrics in zip(runs, measured, strict=True):
        worth = metrics.value_captured if valued == "value captured" else metrics.value_gauc
        told = "" if worth is None else f"{worth:.4f}"
        whole = (folder.name, f"{record.costs.flops:,.0f}", f"{metrics.loss:.5f}", told)
        for head, found in zip(place.heads, metrics.heads, strict=True):
            auc = "" if found.auc is None else f"{found.auc:.4f}"
            table.add_row(*whole, head, f"{found.logloss:.5f}", auc)
            whole = ("", "", "", "")
        table.add_section()
    Console().print(table)
    for folder, record in runs:
        if record.stopped == "diverged":
            print(
                f"{folder.name}: its weights left the range of fp32 within {record.rows:,} rows; lower "
                f"recipe.learning_rate (found {record.recipe.learning_rate:g}), or take a network with normalisation"
            )
    for pair, by_head in (gaps or {}).items():
        for head, gap in by_head.items():
            if gap is None:
                print(f"logloss of {head}, {pair}: no gap, fewer than two test rows have a label of it")
                continue
            verdict = "claimed" if gap.claimed else "not claimed: the interval holds 0"
            print(f"logloss of {head}, {pair}: {gap.mean:+.5f} [{gap.low:+.5f}, {gap.high:+.5f}], {verdict}")
    if gaps is None:
        print(f"kept in {place.folder}")
    else:
        print(f"{_judged(place)}; nothing is written, --json prints every metric")
    return 0


def _judged(place: Any) -> str:
    """By what all runs of a table are compared, whatever each was trained by."""
    weights = _by_head(place, place.head_weights)
    value = f"; value: {place.value.form}, {_by_head(place, place.value.weights)}" if place.value else ""
    return f"by {place.design.path}: loss weights {weights}{value}"


def _by_head(place: Any, numbers: Sequence[float]) -> str:
    return ", ".join(f"{head} {number:.4g}" for head, number in zip(place.heads, numbers, strict=True))


def _say(text: str, status: int) -> int:
    _tell(text)
    return status


def _tell(text: str) -> None:
    print(f"trimtab nas: {text}", file=sys.stderr)


def count(text: str) -> int:
    """An argument of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"found {text}; expected 1 or more")
    return number


def seed(text: str) -> int:
    """An argument that generators take."""
    number = int(text)
    if not 0 <= number < 2**63:
        raise argparse.ArgumentTypeError(f"found {text}; expected 0 or more, below 2^63")
    return number
