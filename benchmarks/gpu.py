"""Everything that waits for a GPU, in calls of under 9 minutes; each call goes on where the last one stopped.

    python -m benchmarks.gpu [--device cuda] [--out FOLDER] [--seconds 520] [--only STAGE]

Stages, in this order: ``ways`` (is each way exact, how large is its rounding, how fast is it), ``speed`` (allelse beside
everyone else), ``soak`` (killed and gone on: the same bytes?), the recipes among which validation chooses, then the four
founding studies as they are in their files, with all their seeds. Bring CIFAR-10 and CIFAR-100 before (``allelse data
import``). FOLDER holds everything: figures, pages, and the results of each study; give the same one again, or a copy of it on
another machine of the same kind. What is finished is published with ``python -m benchmarks.publish FOLDER/STUDY …``.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
RECIPES = ("recipe-cifar10", "recipe-cifar100")
STUDIES = ("conv-activation-norm-position", "sigmoid-vs-relu", "batchnorm-vs-groupnorm", "batchnorm-vs-groupnorm-many-epochs")
STAGES = ("ways", "speed", "soak", *RECIPES, *STUDIES)
SHARE = {"ways": 0.45, "speed": 0.9, "soak": 0.5}
"""how much of what is left a stage may take, so that a call shows something of every stage; a study takes all it needs"""


def command(stage: str, device: str, out: Path, seconds: float) -> list[str]:
    """What runs a stage for at most so many seconds."""
    if stage in STUDIES:
        return [sys.executable, "-m", "allelse", "run", stage, "--device", device, "--out", str(out / stage)]
    if stage in RECIPES:
        file = HERE.parent / "results" / "recipes" / f"{stage.removeprefix('recipe-')}.toml"
        return [sys.executable, "-m", "allelse", "run", str(file), "--device", device, "--out", str(out / stage)]
    if stage == "soak":  # killed and gone on, in one process and in worker processes; writes soak-cuda.md
        kinds = ["--kinds", "local", "workers"]
        return [sys.executable, "-m", "benchmarks.soak", "--device", device, "--kills", "10", *kinds, "--write"]
    return [sys.executable, "-m", f"benchmarks.{stage}", "--device", device, "--out", str(out), "--seconds", f"{seconds:.0f}"]


def run(stage: str, device: str, out: Path, seconds: float) -> None:
    """Run a stage; one that goes on for longer is stopped as Ctrl-C stops it, which loses nothing."""
    print(f"── {stage}: at most {seconds:.0f} s", flush=True)
    process = subprocess.Popen(command(stage, device, out, seconds), cwd=HERE.parent)
    try:
        print(f"── {stage}: exit code {process.wait(seconds + 30)}", flush=True)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        print(f"── {stage}: stopped, exit code {process.wait(30)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--seconds", type=float, default=520)
    parser.add_argument("--only", choices=STAGES)
    asked = parser.parse_args()
    asked.out = asked.out.resolve()
    asked.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + asked.seconds
    for stage in [asked.only] if asked.only else STAGES:
        left = end - time.monotonic() - 30
        if left > 20:
            run(stage, asked.device, asked.out, left * (1 if asked.only else SHARE.get(stage, 1)))


if __name__ == "__main__":
    main()
