"""Everything that waits for a GPU, in calls of under 10 minutes; each call goes on where the last one stopped.

    python -m benchmarks.gpu [--device cuda] [--out FOLDER] [--archive FILE] [--seconds 540] [--only STAGE]

Stages, in this order: ``ways`` (is each way exact, how large is its rounding, how fast is it), ``speed-narrow`` and
``speed-wide`` (allelse beside everyone else, where its aims are), ``soak`` (killed and gone on: the same bytes? once), the
recipes among which validation chooses, the four founding studies as they are in their files, with all their seeds, and
``speed`` (the whole grid). What needs CIFAR is passed over where it is not there (``allelse data import``).

FOLDER holds everything: figures, pages, measured speeds, and the results of each study; give the same one again, or a copy of
it on another machine of the same kind. Where only files can be carried, FILE is its archive (.tar.gz), unpacked where FOLDER is
empty and written anew after every stage. It holds 15 MiB at most: where the checkpoints of packs under way do not fit beside
what is finished, that is said, and a pack that takes longer than a call can end only where FOLDER itself stays. What is
finished is published with ``python -m benchmarks.publish FOLDER/STUDY …``.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tarfile
import time
from contextlib import suppress
from pathlib import Path

from allelse import data, engine
from allelse.data import cache
from allelse.errors import AllelseError

HERE = Path(__file__).parent
RECIPES = ("recipe-cifar10", "recipe-cifar100")
STUDIES = ("conv-activation-norm-position", "sigmoid-vs-relu", "batchnorm-vs-groupnorm", "batchnorm-vs-groupnorm-many-epochs")
CELLS_FROM_STAGE = {
    "speed-narrow": ["narrow", "batchnorm", "r32", "b2", "b8", "b32"],
    "speed-wide": ["wide", "batchnorm", "r10", "b512"],
    "speed": [],
}
STAGES = ("ways", "speed-narrow", "speed-wide", "soak", *RECIPES, *STUDIES, "speed")
SHARE = {"ways": 0.25, "speed-narrow": 0.4, "speed-wide": 0.45, "soak": 0.8}
"""how much of what is left a stage may take, so that a call shows something of every stage; a study takes all it needs"""
LEAST = {"soak": 140.0, "speed-narrow": 100.0, "speed-wide": 90.0}
"""seconds under which a stage comes to nothing"""
LARGEST_ARCHIVE = 15 << 20
"""bytes; larger ones may not come back from where this runs"""
GRACE = 20.0
"""seconds to end by itself, and to be stopped in"""
SOAK_END = 60.0
"""seconds for the struck study that is under way to be ended and compared"""


def command(stage: str, device: str, out: Path, seconds: float) -> list[str]:
    """What runs a stage for at most so many seconds."""
    timed = ["--device", device, "--out", str(out), "--seconds", f"{seconds:.0f}"]
    if stage in STUDIES:
        return [sys.executable, "-m", "allelse", "run", stage, "--device", device, "--out", str(out / stage)]
    if stage in RECIPES:
        file = f"results/recipes/{stage.removeprefix('recipe-')}.toml"  # from the repository's root, and so it is stored
        return [sys.executable, "-m", "allelse", "run", file, "--device", device, "--out", str(out / stage)]
    if stage == "soak":  # killed and gone on, in one process
        timed[-1] = f"{seconds - SOAK_END:.0f}"
        return [sys.executable, "-m", "benchmarks.soak", "--kills", "8", "--kinds", "local", *timed]
    if stage in CELLS_FROM_STAGE:
        cells = CELLS_FROM_STAGE[stage]
        return [sys.executable, "-m", "benchmarks.speed", *timed, *(["--cells", *cells, "--turns", "3"] if cells else [])]
    return [sys.executable, "-m", f"benchmarks.{stage}", *timed]


def missing(stage: str) -> str | None:
    """The data set that a stage needs and that is not on this machine."""
    if stage not in (*RECIPES, *STUDIES):
        return None
    name = "cifar100" if "100" in stage or "groupnorm" in stage else "cifar10"
    return None if next(entry.present for entry in data.catalogue() if entry.name == name) else name


def run(stage: str, device: str, out: Path, seconds: float) -> int:
    """Run a stage; one that goes on for longer is stopped as Ctrl-C stops it, which loses nothing, and then by force."""
    print(f"── {stage}: at most {seconds:.0f} s", flush=True)
    # What is measured for a plan is kept in FOLDER, too; data stay where they are.
    kept = {"XDG_CACHE_HOME": str(out / "cache"), cache.ROOT_VARIABLE: str(cache.root().absolute())}
    process = subprocess.Popen(
        command(stage, device, out, seconds), cwd=HERE.parent, env={**os.environ, **kept}, start_new_session=True
    )
    try:
        for stop in (None, signal.SIGINT):
            if stop:
                print(f"── {stage}: is stopped", flush=True)
                os.killpg(process.pid, stop)
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE if stop else seconds + GRACE / 2)
                break
    except BaseException:  # this script is stopped itself
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
        raise
    finally:
        with suppress(ProcessLookupError):  # also what it has left over
            os.killpg(process.pid, signal.SIGKILL)
    print(f"── {stage}: exit code {process.wait()}", flush=True)
    return process.returncode


def unpack(archive: Path, out: Path) -> None:
    if archive.exists() and not any(out.iterdir()):  # else what is there may be newer
        with tarfile.open(archive) as packed:
            packed.extractall(out, filter="data")


def pack(out: Path, archive: Path) -> None:
    """Whole or not at all: what is there stays until all is written. Too large, it goes without the packs under way."""
    partial = archive.with_name(f"{archive.name}.partial")
    for left_out in (None, "checkpoints"):
        with tarfile.open(partial, "w:gz") as packed:
            packed.add(out, ".", filter=lambda member, name=left_out: None if Path(member.name).name == name else member)
        if partial.stat().st_size <= LARGEST_ARCHIVE:
            break
        if left_out is None:
            print("── archive: too large, so the packs under way are left out and begin anew elsewhere", flush=True)
    partial.replace(archive)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--archive", type=Path)
    parser.add_argument("--seconds", type=float, default=540)
    parser.add_argument("--only", choices=STAGES)
    asked = parser.parse_args()
    out = asked.out.resolve()
    end = time.monotonic() + asked.seconds
    try:
        print(f"on {engine.describe_device(engine.find_device(asked.device))}", flush=True)
    except AllelseError as problem:
        print(f"benchmarks.gpu: {problem}", file=sys.stderr)
        return 2
    if asked.archive and (out == HERE or asked.archive.resolve().is_relative_to(out)):
        parser.error("--archive: give --out too, a folder that holds nothing else, and a file outside it")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no stage is left behind
    out.mkdir(parents=True, exist_ok=True)
    if asked.archive:
        unpack(asked.archive, out)
    for stage in [asked.only] if asked.only else STAGES:
        if stage == "soak" and (out / f"soak-{asked.device}.md").exists():
            continue
        if name := missing(stage):
            print(f"── {stage}: needs {name}, which is not there ('allelse data import {name} FILE')", flush=True)
            continue
        for _ in range(2):  # after a CUDA error nothing works in that process, and in a new one the rest goes on
            seconds = (end - time.monotonic() - 2.5 * GRACE) * (1 if asked.only else SHARE.get(stage, 1))
            if seconds < LEAST.get(stage, 20.0):
                print(f"── {stage}: not begun, as {max(0, seconds):.0f} s would be its; the same command goes on", flush=True)
                break
            try:
                ended = run(stage, asked.device, out, seconds)
            finally:
                if asked.archive:
                    pack(out, asked.archive)
            if stage != "ways" or ended in (0, 130, -signal.SIGINT):
                break
    return 0


if __name__ == "__main__":
    sys.exit(main())
