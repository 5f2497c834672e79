"""The commands. Each imports what it needs when it is called, so that ``allelse list`` does not wait for torch."""

from __future__ import annotations

import errno
import os
import re
import shlex
import signal
import sys
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from allelse import __version__
from allelse.cli import datasets
from allelse.cli.streams import discard
from allelse.errors import AllelseError, StoreError, Terminated, counted, did_you_mean

app = typer.Typer(
    help="Does swapping this part of a neural network matter, all else equal?",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(datasets.app, name="data")

StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="A packaged study's name, or a study file.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="An output folder.")]
QuickFlag = Annotated[bool, typer.Option("--quick", help="The study's small version, as its [quick] says.")]
ScaledFlag = Annotated[bool, typer.Option("--scaled", help="The study's version for machines without a GPU, on its own data.")]
Seeds = Annotated[int | None, typer.Option("--seeds", metavar="N", help="Seeds instead of the file's number.")]
FirstSeed = Annotated[
    int | None, typer.Option("--first-seed", metavar="N", help="The first seed; other machines take others, see merge.")
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a recipe key, or a factor's levels; may be repeated."),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]
NoPack = Annotated[bool, typer.Option("--no-pack", help="Train every run alone: in fp64 packs change rounding only.")]
NoGraph = Annotated[bool, typer.Option("--no-graph", help="Record no CUDA graphs, to check that they change nothing.")]
Workers = Annotated[int | None, typer.Option("--workers", metavar="N", help="Train N packs at once, each in a process.")]
Engine = Annotated[Literal["local", "ray"], typer.Option("--engine", help="This machine, or a Ray cluster.")]
Address = Annotated[str | None, typer.Option("--address", help="Of the Ray cluster; auto is the one that runs here.")]
OnError = Annotated[Literal["continue", "stop"], typer.Option("--on-error", help="What to do when a pack of runs fails.")]

STOPPED, TERMINATED = 130, 143
"""the exit codes after Ctrl-C and SIGTERM"""


def main() -> None:
    """Entry point of ``allelse``: every user's mistake becomes one line and exit code 2."""
    for stream in (sys.stdout, sys.stderr):  # a terminal that lacks a letter, and a name that is no UTF-8, stop nothing
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    code: Any = 0
    try:
        code = app(standalone_mode=False)
        if sys.stdout:  # none where it was closed
            sys.stdout.flush()
    except AllelseError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        code = STOPPED
    except Terminated as ended:
        code = ended.code
    except BrokenPipeError:  # the reader of our output left, as `| head` does
        for stream in (1, 2):
            discard(stream)
        sys.exit(code)
    except OSError as error:
        if error.filename is None:  # nothing that a command opens: stdout, on a disk that is full
            discard(1)
            _fail(f"the output cannot be written: {error.strerror}; free space, or send it elsewhere")
        _fail(f"{str(error.filename)[:60]}: cannot be used: {error.strerror}; mend that, or name another file")
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        if type(error).__name__ == "NoArgsIsHelpError":  # 'allelse' alone: its message is the help
            print(error.format_message(), file=sys.stderr)
            sys.exit(2)
        _fail(_mistake(error))
    if code in (STOPPED, TERMINATED):  # typer returns the first for Ctrl-C
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one ends what is left to do at once, without a traceback
        _tell("stopped; the same command goes on from here")
    sys.exit(code if isinstance(code, int) else 0)


def _mistake(error: Any) -> str:
    """What typer says of a command line; of an option's value as every other message does: what was given, what is allowed."""
    said: str = error.format_message().rstrip(".")
    refused: list[Any] = getattr(error.__cause__, "errors", list)()
    if refused and getattr(error, "param", None):
        option, given = max(error.param.opts, key=len), refused[0]["input"]
        if choices := re.findall(r"'([^']+)'", said.partition("is not one of")[2]):
            return f"{option} {given}: {did_you_mean(given, choices)}"
        if "valid integer" in said:
            return f"{option} {given}: allowed: a whole number"
    return f"{said}; 'allelse --help' lists commands, 'allelse COMMAND --help' their options"


def _fail(message: str) -> None:
    _tell(str(AllelseError(message)))
    sys.exit(2)


def _tell(line: str) -> None:
    """Where nobody can read it, the exit code says it alone."""
    try:
        print(f"allelse: {line}", file=sys.stderr, flush=True)
    except OSError:
        discard(2)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version
        from platform import python_version

        print(f"allelse {__version__}, torch {version('torch')}, Python {python_version()}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")] = False,
) -> None: ...


@app.command("list")
def list_studies() -> None:
    """The studies that come with allelse."""
    from allelse import study
    from allelse.cli import tables

    tables.show_studies([study.load(name) for name in study.packaged_studies()])


@app.command()
def new(file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it.")]) -> None:
    """Write a commented study file to start from."""
    from importlib.resources import files

    text = (files("allelse") / "studies" / "template.toml.txt").read_text("utf-8")
    path, is_ours = Path(os.path.expanduser(file)), False
    try:
        with path.open("x", encoding="utf-8") as opened:
            is_ours = True
            opened.write(text)
    except FileExistsError:
        raise StoreError(f"{file}: is there already and is left as it is; give another name") from None
    except OSError as error:
        if is_ours:
            with suppress(OSError):
                path.unlink()  # what was written of it
        remedy = "free space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "give another name"
        if error.errno == errno.ENOENT:
            remedy = "make its folder, or give another name"
        raise StoreError(f"{file}: cannot be written: {error.strerror}; {remedy}") from None
    print(f"wrote {file}; next: allelse plan {shlex.quote(str(file))}")


@app.command(short_help="What a study would run, in what time; trains nothing.")
def plan(
    study_name: StudyName,
    quick: QuickFlag = False,
    scaled: ScaledFlag = False,
    seeds: Seeds = None,
    first_seed: FirstSeed = None,
    changes: Changes = None,
    device: Device = "auto",
    no_pack: NoPack = False,
    no_graph: NoGraph = False,
    workers: Workers = None,
    engine: Engine = "local",
    address: Address = None,
) -> None:
    """What a study would run: arms, what differs between them, packs, estimated time. Trains nothing but a few timed steps."""
    from allelse import study
    from allelse.cli import tables
    from allelse.launch import Computing, Machines, check_parts, crew, dataset_of, plan_study

    loaded = study.load(study_name, quick=quick, scaled=scaled, seeds=seeds, first_seed=first_seed, changes=changes or ())
    if not (quick or scaled):
        for version in study.versions(study_name):  # a mistake there is told now, and not when somebody asks for it
            study.load(study_name, quick=version == "quick", scaled=version == "scaled")
    computing = Computing(not no_pack, not no_graph)
    with crew(Machines(engine, workers, address), device) as hired:
        tuning_plan = plan_study(study.tuning_study(loaded), hired, computing) if loaded.tune else None
        planned = plan_study(loaded, hired, computing)
        machine, who = hired.machine()["device"], hired.in_words() if hired.is_elsewhere else ""
    tables.show_plan(loaded, planned, tuning_plan, dataset_of, machine)
    if who:
        print(f"\n{who}{'; they share the time' * (workers != 1)}")
    tables.show_own_parts(check_parts(loaded, dataset_of))


@app.command(short_help="The network of an arm, and what sets another apart.")
def explain(
    study_name: StudyName,
    arm: Annotated[
        list[str] | None,
        typer.Option("--arm", metavar="KEY=LEVEL", help="A level of the arm to look at, e.g. depth=8; may be repeated."),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against", metavar="KEY=LEVEL", help="Compare with the arm that has this level instead; may be repeated."
        ),
    ] = None,
    quick: QuickFlag = False,
    scaled: ScaledFlag = False,
    changes: Changes = None,
) -> None:
    """The network of one arm: layers, shapes, parameters, multiply–adds, memory; and what sets another arm apart from it."""
    from allelse import study
    from allelse.cli.explanation import show_anatomy, show_difference
    from allelse.explanation import anatomy, difference, find_arm

    loaded = study.load(study_name, quick=quick, scaled=scaled, changes=changes or ())
    chosen = find_arm(loaded, arm or ())
    other = find_arm(loaded, against, chosen) if against else None
    shown = anatomy(chosen)
    show_anatomy(loaded, shown)
    if other:
        second, seed = anatomy(other), loaded.seeds[0]
        show_difference(shown, second, difference(shown, second, seed), seed)


@app.command(short_help="Train a study, or go on where it stopped.")
def run(
    study_name: StudyName,
    quick: QuickFlag = False,
    scaled: ScaledFlag = False,
    seeds: Seeds = None,
    first_seed: FirstSeed = None,
    changes: Changes = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Output folder; runs/NAME when left out.")] = None,
    device: Device = "auto",
    no_pack: NoPack = False,
    no_graph: NoGraph = False,
    workers: Workers = None,
    engine: Engine = "local",
    address: Address = None,
    on_error: OnError = "continue",
) -> None:
    """Train a study, or go on where it stopped; show its table and verdicts, and write its report."""
    from allelse import store, study
    from allelse.cli import tables
    from allelse.cli.progress import Screen
    from allelse.launch import Computing, Machines, run_study
    from allelse.report import judge, write_report

    loaded = study.load(study_name, quick=quick, scaled=scaled, seeds=seeds, first_seed=first_seed, changes=changes or ())
    folder = out or Path("runs") / loaded.name
    with Screen() as screen:
        machines = Machines(engine, workers, address, on_error=on_error)
        outcome = run_study(loaded, folder, device, screen, Computing(not no_pack, not no_graph), machines)
    unread = None
    try:
        with store.read(folder) as opened:
            tables.show_results(opened)
            tables.show_verdicts(judge(opened))
        print(end="\n", flush=True)
    except OSError as error:  # nobody reads this, or its disk is full: there is the report
        unread = error
        discard(1)
    print(f"report: {write_report(folder, _tell)}")
    if failed := outcome.runs_by_status.get("failed", 0):
        pending = outcome.runs_by_status.get("pending", 0)
        stopped, goes_on = f", stopped there with {pending} pending", " and goes on"
        print(
            f"allelse: {counted(failed, 'run')} failed{stopped * outcome.stopped}, see {folder / 'allelse.log'}; "
            f"the same command tries them again{goes_on * outcome.stopped}",
            file=sys.stderr,
        )
        raise typer.Exit(1)
    if unread:
        raise unread


@app.command(short_help="How far a study is, and who is at work on it.")
def status(
    folder: Folder,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it until it ends or stops; Ctrl-C ends watching.")] = False,
) -> None:
    """How far a study is, who is at work on it, and whether its runs were paired as planned."""
    from allelse import store
    from allelse.cli import status as shown

    if watch:
        with suppress(KeyboardInterrupt):
            shown.watch(folder)
    else:
        with store.read(folder) as opened:
            shown.show(opened)


@app.command(short_help="What came out of each arm, or of every run.")
def results(
    folder: Folder,
    output: Annotated[Literal["table", "csv", "json", "parquet"], typer.Option("--format")] = "table",
    runs: Annotated[bool, typer.Option("--runs", help="Every run instead of every arm.")] = False,
    epochs: Annotated[
        bool, typer.Option("--epochs", help="Every epoch of every run: learning curves; with --format csv, json or parquet.")
    ] = False,
    probes: Annotated[
        bool,
        typer.Option(
            "--probes", help="What was measured in every layer at the probed steps; with --format csv, json or parquet."
        ),
    ] = False,
    timing: Annotated[bool, typer.Option("--timing", help="With --runs: also times, device, versions and host.")] = False,
    metric: Annotated[str, typer.Option("--metric", help="What to summarise per arm.")] = "accuracy",
) -> None:
    """What came out: n, mean, sd and 95 % interval of each arm, or every run. Parquet goes to stdout, which must be a file."""
    from allelse import store
    from allelse.cli import frames, tables

    option = frames.option({"--runs": runs, "--epochs": epochs, "--probes": probes}, output, timing, metric)
    with store.read(folder) as opened:
        if opened.plan is None and not (option and opened.tuning_part and opened.tuning_part.plan):
            raise StoreError(f"{folder}: nothing is planned yet: it was stopped while measuring or tuning; run it again")
        if output == "table" and not runs:
            tables.show_results(opened, metric)
            return
        frame = frames.of_runs(opened, option, timing=timing) if option else tables.arms(opened, metric)
        if output == "table":
            tables.show_runs(frame, opened.definition)
        else:
            frames.write(frame, output, opened)


@app.command(short_help="Each claim: supported, refuted or undecided.")
def verdicts(
    folder: Folder,
    output: Annotated[Literal["table", "json"], typer.Option("--format")] = "table",
    also: Annotated[Path | None, typer.Option("--also", metavar="FILE", help="Judge the [[claims]] of FILE, too.")] = None,
) -> None:
    """What became of each claim: supported, refuted or undecided, with its evidence; of those of --also, exploratory."""
    from allelse import store
    from allelse.cli import frames, tables
    from allelse.report import judge, judge_also, of_a_second_look
    from allelse.study import further_claims

    with store.read(folder) as opened:
        judged, further = judge(opened), further_claims(str(also), opened.definition) if also else []
        explored = judge_also(opened, further) if further else []
        unseen, warning = max(opened.definition["seeds"]) + 1, of_a_second_look(opened.definition["seeds"], opened.parts)
    if output == "json":
        rows = [one.to_json() for one in judged] + [{**one.to_json(), "exploratory": True} for one in explored]
        print(frames.as_json(rows))
    elif judged or explored:
        tables.show_verdicts(judged)
        tables.show_verdicts(explored, "Exploratory: asked when the runs were there", warning)
        if explored:
            print(f"\nto confirm one, declare it in a study file and run that with --first-seed {unseen}")
    else:
        print("its study makes no claims; ask some of these runs with --also FILE")


@app.command(short_help="Ours beside the published figures.")
def compare(
    folder: Folder,
    output: Annotated[Literal["table", "csv", "json"], typer.Option("--format")] = "table",
) -> None:
    """Ours beside the published figures that the study names: difference, interval, and whether they differ."""
    from allelse import store
    from allelse.cli.comparisons import show_comparisons
    from allelse.report import gather

    with store.read(folder) as opened:
        show_comparisons(gather(opened), output)


@app.command(short_help="Write the report and the figures again.")
def report(folder: Folder) -> None:
    """Write report.html (one self-contained file), report.md and the figures into the output folder."""
    from allelse.report import write_report

    print(f"wrote {write_report(folder, _tell)}")


@app.command(short_help="Unite folders of one study.")
def merge(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder, or one of the same study.")],
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Output folders of one study; only read.")],
) -> None:
    """Unite folders of one study, from several machines, with other seeds or fewer arms, in one, where run and report go on."""
    from allelse import store

    print("\n".join(store.merge(out, folders)))
    print(f"next: allelse report {shlex.quote(str(out))}")
