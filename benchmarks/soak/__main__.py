"""Studies whose processes are killed at random moments: a number of kills and a seed in; what came of it, in ``soak.md``, out.

    python -m benchmarks.soak [--kills 100] [--seed 0] [--kinds local workers ray] [--device cpu] [--seconds N] [--out FOLDER]

Half of the kills are of ``allelse run STUDY``, three tenths of ``--workers 2``, two tenths of ``--engine ray``. The same
command is begun again until it ends by itself; then its folder must be that of a study that nobody disturbed (``checks`` says
what may differ). The seed decides studies, moments and victims; what is under way at a moment is the machine's affair. Exit
code 1 where something differed; the folders are kept then. After ``--seconds`` nothing is killed, and the page has fewer kills.
Needs Linux.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

from . import cluster, studies
from .page import page
from .soak import KINDS, Soak, Tally, folder_of

SHARES = {"local": 0.5, "workers": 0.3, "ray": 0.2}


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--kills", type=int, default=100)
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    asked.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    asked.add_argument("--seconds", type=float, default=float("inf"))
    asked.add_argument("--out", type=Path, help="folder to write soak.md to, or soak-cuda.md")
    options = asked.parse_args()
    kinds = [kind for kind in options.kinds if kind != "ray" or cluster.is_installed()]
    if kinds != options.kinds:
        print("Ray is not installed: its kills are left out", flush=True)
    base, begun = Path(tempfile.mkdtemp(prefix="soak-")), time.monotonic()
    end = begun + options.seconds
    files = studies.write(base, studies.STUDIES)
    tallies = {
        kind: soak(base, kind, files, round(SHARES[kind] * options.kills), options.seed, options.device, end) for kind in kinds
    }
    text = page(tallies, options.kills, options.seed, time.monotonic() - begun, options.device)
    print(text)
    if options.out and any(tally.kills for tally in tallies.values()):
        (options.out / ("soak.md" if options.device == "cpu" else f"soak-{options.device}.md")).write_text(text, "utf-8")
    if differed := any(tally.differences for tally in tallies.values()):
        print(f"something differed; all folders are kept in {base}", flush=True)
    else:
        shutil.rmtree(base, ignore_errors=True)
    return int(differed)


def soak(base: Path, kind: str, files: dict[str, Path], kills: int, seed: int, device: str, end: float) -> Tally:
    """All kills of one kind."""
    (base / "r").mkdir(exist_ok=True)  # sockets stand below it, whose names may not be long
    variables = {"XDG_CACHE_HOME": str(base / "ray-cache")}
    with cluster.cluster(base / "r", variables) if kind == "ray" else nullcontext() as address:
        soaked = Soak(base, kind, files, ("--address", address) if address else (), device)
        for name in files:
            alone = folder_of(base, "local", name)
            soaked.leave_alone(name, alone if alone.exists() and kind != "local" else None)
        soaked.strike(kills, seed, end)
    return soaked.tally


if __name__ == "__main__":
    sys.exit(main())
