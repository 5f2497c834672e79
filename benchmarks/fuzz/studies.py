"""Parsers of what a study is asked with: its file, ``--set``, ``--arm`` and ``--against``, and whole command lines."""

from __future__ import annotations

import io
import json
import os
import sys
import tomllib
from functools import cache
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from allelse import study
from allelse.errors import AllelseError

from .mutations import ODD_NUMBERS, ODD_TEXTS, odd_value, spoilt_bytes, spoilt_lines, spoilt_value, toml
from .trials import BAIT, CONTROL, Fault, check_message

WHOLE = """\
[study]
name     = "whole"
question = "Does it matter?"
seeds    = 2
first_seed = 3
alpha    = 0.05

[recipe]
dataset              = "digits"
train_per_class      = 10
validation_per_class = 5
epochs               = 2
batch_size           = 20
augment              = ["flip", { name = "crop", padding = 1 }]
optimizer            = { name = "adam", lr = 0.01, betas = [0.9, 0.99] }
schedule             = { name = "cosine", warmup_epochs = 1 }
averaging            = { name = "ema", decay = 0.9 }
label_smoothing      = 0.1

[recipe.model]
family = "convnet"
stem   = { width = 4, norm = true }
width  = [4, 8]
depth  = 2
norm   = { name = "group", groups = 2 }
pool   = [1]
head   = { name = "flatten", hidden = [4] }

[factors]
"model.activation" = ["sigmoid", "relu", { name = "leaky_relu", slope = 0.1 }]
"model.depth" = [1, 2]

[factors.order]
plain = { "model.block" = "conv-norm-act" }
other = { "model.block" = "conv-act-norm", "model.bias" = false }

[factors."model.norm.groups"]
when   = { order = "plain" }
levels = [1, 2]

[[exclude]]
order = "other"
"model.depth" = 2

[[adjust]]
where = { "model.activation" = ["relu"] }
set   = { batch_size = 10 }
seeds = 3

[[claims]]
id   = "relu-above"
says = "ReLU is above sigmoid"
kind = "higher"
a    = { "model.activation" = "relu" }
b    = { "model.activation" = "sigmoid" }
where = { order = "plain", "model.norm.groups" = 1 }
for_each = "model.depth"
margin = 1.0

[[claims]]
id   = "falls"
says = "It falls"
kind = "trend"
along = "model.depth"
direction = "down"
where = { "model.activation" = "relu", order = "plain", "model.norm.groups" = 1 }

[[references]]
source   = "a paper"
arm      = { "model.activation" = "relu" }
accuracy = 50.0
sd       = 1.0
n        = 5
note     = "their split"

[tune]
key    = "optimizer.lr"
values = [0.1, 0.01]
per    = ["model.activation"]

[quick]
epochs = 1
seeds  = 1
tune   = { values = [0.1, 0.2] }
[quick.factors]
"model.depth" = [1, 2]
"""
"""says nearly all that a study file can say"""

OWN = WHOLE.replace('"sigmoid", "relu"', '"sigmoid", "relu", "python:canary:Part"')


@cache
def texts() -> tuple[str, ...]:
    return (WHOLE, WHOLE, WHOLE, OWN, *study.packaged_studies().values())


def load_whole(name: str | Path, **options: Any) -> study.Study:
    """Load a study and all that is kept of it; nothing of the user's own may run on the way."""
    loaded = study.load(name, **options)
    json.loads(json.dumps(loaded.definition(), allow_nan=False))
    for run in islice(loaded.runs(), 5):
        assert len(run.id) == 12
    if loaded.tune:
        assert study.tuning_study(loaded).arms
    return loaded


def text(rng: Random, folder: Path) -> None:
    """A study file with its bytes or lines spoilt."""
    (folder / "canary.py").write_text(BAIT)
    whole = rng.choice(texts())
    spoilt = spoilt_lines(rng, whole).encode() if rng.random() < 0.6 else spoilt_bytes(rng, whole.encode())
    (folder / "study.toml").write_bytes(spoilt)
    load_whole("study.toml", quick=rng.random() < 0.2)


def values(rng: Random, folder: Path) -> None:
    """A study file that is valid TOML, with values of other types, sizes and places."""
    (folder / "canary.py").write_text(BAIT)
    raw = tomllib.loads(rng.choice(texts()))
    if rng.random() < 0.7:  # one table alone, so that the mistakes do not all fall into claims
        key = rng.choice(list(raw))
        spoilt = spoilt_value(rng, {key: raw[key]}, most=2)
        raw = {**raw, **spoilt} if isinstance(spoilt, dict) else raw
    else:
        raw = spoilt_value(rng, raw)
    if not isinstance(raw, dict):
        raw = {"study": raw}
    (folder / "study.toml").write_text("\n".join(f"{toml(str(key))} = {toml(value)}" for key, value in raw.items()), "utf-8")
    load_whole("study.toml", quick=rng.random() < 0.2)


KEYS = (
    *("epochs", "updates", "batch_size", "dataset", "image_size", "optimizer", "optimizer.lr", "optimizer.betas", "schedule"),
    *(
        "model",
        "model.width",
        "model.depth",
        "model.activation",
        "model.norm",
        "model.norm.groups",
        "model.block",
        "model.pool",
    ),
    *("model.stem.kernel", "model.head.hidden", "model.init", "augment", "averaging", "precision", "tune", "tune.values"),
    *("tune.key", "order", "", ".", "a.b", "model.", "study.name", "label_smoothing", "model.dropout", "model.kernel"),
)


VALID = ("epochs=3", "batch_size=5", "model.width=[2, 4]", "optimizer.lr=1e-3", "tune=false", "precision=fp32", "order=plain")


def change(rng: Random) -> str:
    """The text of one ``--set``."""
    key = rng.choice((*KEYS, rng.choice(ODD_TEXTS)))
    kind = rng.randrange(4)
    if kind == 0:
        value = toml(odd_value(rng))
    elif kind == 1:
        value = rng.choice(ODD_TEXTS)
    elif kind == 2:
        value = toml(spoilt_value(rng, {"name": "group", "groups": 2, "lr": 0.1, "values": [1, 2]}))
    else:
        value = spoilt_bytes(rng, rng.choice((b"2", b"[1, 2]", b'"relu"', b"{ name = 'adam', lr = 0.1 }"))).decode(
            "utf-8", "surrogateescape"
        )
    if rng.random() < 0.3:
        return rng.choice(VALID)
    whole = key + "=" + value if rng.random() < 0.95 else rng.choice(ODD_TEXTS)
    return whole.replace("\x00", "") if rng.random() < 0.9 else whole  # a command line has no NUL, but a notebook may


def changes(rng: Random, folder: Path) -> None:
    """One to three ``--set``."""
    (folder / "canary.py").write_text(BAIT)
    (folder / "study.toml").write_text(WHOLE)
    seeds = rng.choice((None, None, None, 1, 0, -1, 10_000, 10_001, 2**70))
    load_whole("study.toml", changes=[change(rng) for _ in range(rng.randint(1, 3))], seeds=seeds)


def explain(rng: Random, folder: Path) -> None:
    """``--arm`` and ``--against``, and networks of any size."""
    from allelse.cli.explanation import show_anatomy
    from allelse.explanation import anatomy, difference, find_arm

    (folder / "study.toml").write_text(WHOLE)
    asked = [change(rng) for _ in range(rng.randint(0, 2))] if rng.random() < 0.3 else []
    if rng.random() < 0.4:
        key = rng.choice(
            ("model.width", "model.depth", "model.stem.kernel", "model.stem.width", "model.head.hidden", "model.pool")
        )
        asked = [f"{key}={toml(rng.choice(([7], [7] * 9, 1000, 65536, 10**6, 3, [65536, 65536])))}"]
    loaded = load_whole("study.toml", changes=[one for one in asked if "python:" not in one])
    levels = [f"{factor}={level}" for factor, known in loaded.factors.items() for level in known]

    def named() -> list[str]:
        given = rng.sample(levels, min(len(levels), rng.randint(0, 3)))
        return [spoilt_bytes(rng, one.encode(), 1).decode("utf-8", "replace") if rng.random() < 0.3 else one for one in given]

    chosen = find_arm(loaded, named()) if rng.random() < 0.6 else loaded.arms[rng.randrange(len(loaded.arms))]
    shown = anatomy(chosen)
    with quiet():
        show_anatomy(loaded, shown)
    if other := named():
        difference(shown, anatomy(find_arm(loaded, other, chosen)), 0)


def warm_up(folder: Path) -> None:
    """Torch makes folders of its own when it is first asked for a network's costs."""
    from allelse.explanation import anatomy

    (folder / "study.toml").write_text(WHOLE)
    anatomy(load_whole(folder / "study.toml").arms[0])


class quiet:
    """Catches what is printed, and holds it against what a terminal obeys."""

    def __enter__(self) -> quiet:
        self.kept = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
        return self

    def __exit__(self, *_: object) -> None:
        self.raw, self.raw_err = (stream.buffer.getvalue() for stream in (sys.stdout, sys.stderr))  # type: ignore[union-attr]
        sys.stdout, sys.stderr = self.kept
        for raw in (self.raw, self.raw_err):
            if not raw.startswith(b"PAR1") and (found := CONTROL.search(raw.decode("utf-8", "replace"))):
                raise Fault(f"output: control character {found[0]!r}")


COMMANDS = (
    *(["list"], ["new", "FILE"], ["explain", "STUDY", "--arm", "depth=1"], ["status", "DIR"], ["results", "DIR"]),
    *(
        ["results", "DIR", "--format", "csv"],
        ["results", "DIR", "--metric", "accuracy"],
        ["verdicts", "DIR"],
        ["compare", "DIR"],
    ),
    *(["report", "DIR"], ["data", "list"], ["data", "import", "cifar10", "DIR"], ["data", "fetch", "cifar10"]),
    *(["plan", "STUDY", "--device", "cpu", "--seeds", "2"], ["run", "STUDY", "--out", "DIR", "--device", "cpu"]),
)
FILES = (
    "study.toml",
    "none",
    "none.toml",
    "folder",
    "empty",
    "binary",
    "text",
    "link",
    "pipe",
    "a" * 300,
    "\udcff.toml",
    "~nobody-here/x",
)
VARIABLES = ("ALLELSE_DATA", "ALLELSE_CIFAR_URL", "XDG_CACHE_HOME", "HOME", "COLUMNS")
ADDRESSES = (
    "http://",
    "https://[::1",
    "http://" + "a" * 80,
    "ftp://x",
    "http://x y",
    "http://127.0.0.1:99999",
    "file:///etc/passwd",
)


def command(rng: Random, folder: Path) -> None:
    """A whole command line with its environment, through ``main``; nothing is trained."""
    from allelse.cli import main

    (folder / "study.toml").write_text(WHOLE)
    (folder / "folder").mkdir()
    (folder / "empty").touch()
    (folder / "binary").write_bytes(rng.randbytes(300))
    (folder / "text").write_text("hello")
    (folder / "link").symlink_to("nowhere")
    os.mkfifo(folder / "pipe")
    words = [rng.choice(FILES) if word in ("STUDY", "DIR", "FILE") else word for word in rng.choice(COMMANDS)]
    for _ in range(rng.randint(0, 2)):
        kind = rng.randrange(4)
        odd = str(rng.choice((*ODD_TEXTS, *ODD_NUMBERS)))
        if kind == 0 and words:
            words[rng.randrange(len(words))] = odd
        elif kind <= 1:
            words += [rng.choice(("--seeds", "--device", "--metric", "--set", "--format", "--out", "--arm", "--against")), odd]
        elif kind == 2:
            words += ["--set", change(rng)]
        elif words:
            del words[rng.randrange(len(words))]
    words = ["allelse", *(word.replace("\x00", "") for word in words)]
    if words[1:2] in (["run"], ["plan"]):  # what is valid here would be trained: the device keeps it from that
        words += ["--device", rng.choice(("cuda:99", "cdua", "cuda:x", "CPU", "mps"))]
    before = dict(os.environ)
    os.environ.update(
        HOME=str(folder), XDG_CACHE_HOME=str(folder), ALLELSE_DATA=str(folder / "data"), ALLELSE_CIFAR_URL="http://127.0.0.1:9"
    )
    name = rng.choice(VARIABLES)
    if rng.random() < 0.4:
        odd = rng.choice(ADDRESSES) if name == "ALLELSE_CIFAR_URL" else rng.choice((*ODD_TEXTS, *FILES))
        os.environ[name] = odd.replace("\x00", "")
    kept, sys.argv = sys.argv, words
    try:
        with quiet() as caught:
            try:
                main()
            except SystemExit as ended:
                code = ended.code
    finally:
        sys.argv = kept
        os.environ.clear()
        os.environ.update(before)
    said = caught.raw_err.decode("utf-8", "replace").splitlines()
    if code == 2:
        told = [line for line in said if line.startswith("allelse: ")]
        if not told and said and said[0].startswith("Usage"):
            return
        if len(told) != 1 or said[-1] != told[0]:
            raise Fault(f"message: {len(said)} lines, {len(told)} of them ours: {said[-3:]}")
        check_message(told[0])
        raise AllelseError(told[0])
    if code not in (0, 1):
        raise Fault(f"exit code: {code}")


command.may = ("network", "wrote outside")  # type: ignore[attr-defined]  # both only where the command line says so; neither is let through
