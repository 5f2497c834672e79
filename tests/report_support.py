"""Stores to report on, without training; and a headless Chromium to open pages in, spoken to over its debugging pipe."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from zlib import crc32

import numpy as np

from allelse import store
from allelse.records import Provenance, RunResult, RunSpec

MADE = Provenance("0.1.0", "2.13.0", "3.11.7", "a CPU", "bf16", 2, "host", "2026-01-01T00:00:00+00:00")
LAYERS = ("stem.conv", "blocks.0.conv", "blocks.1.conv", "head")
FACTORS = {"model.activation": ["sigmoid", "relu"], "model.depth": [1, 2, 4]}
CLAIMS = [
    {
        "id": "relu-above",
        "says": "ReLU is above sigmoid",
        "kind": "higher",
        "a": {"model.activation": "relu"},
        "b": {"model.activation": "sigmoid"},
        "for_each": "model.depth",
    },
    {
        "id": "relu-alike",
        "says": "ReLU is alike at every depth",
        "kind": "stable",
        "along": "model.depth",
        "where": {"model.activation": "relu"},
        "margin": 3.0,
    },
]


def definition(**changes):
    """``Study.definition`` of a made-up study; ``changes`` replace its keys."""
    known = {
        "name": "made-up",
        "question": "Does it matter?",
        "seeds": list(range(5)),
        "alpha": 0.05,
        "factors": FACTORS,
        "claims": CLAIMS,
        "references": [],
        "quick": False,
        **changes,
    }
    factors = known["factors"]
    arms = [dict(zip(factors, levels, strict=True)) for levels in product(*factors.values())]
    return {"arms": [{"levels": arm, "recipe": {"epochs": 2, "arm": arm}} for arm in arms], **known}


def value_of(arm, seed):
    """A percentage that follows from the arm and the seed."""
    return 70.0 + 10.0 * (arm.get("model.activation") == "relu") + seed * 0.25 + (hash_of(arm, seed) % 7) * 0.1


def hash_of(*parts):
    return crc32(json.dumps(parts, sort_keys=True, default=str).encode())


def result(spec, accuracy, *, epochs=2, probes=True, status="done", error=None, metrics=None):
    at_end = {
        "accuracy": accuracy,
        "accuracy_running": accuracy,
        "accuracy_recalibrated": accuracy + 2.0,
        "accuracy_batch": accuracy + 1.9,
    }
    rows = [
        {"step": step, "epoch": 0.0, "layer": layer, "gradient_norm": 0.1 * (place + 1 + step), "weight_norm": 1.0}
        for step in (0, 9)
        for place, layer in enumerate(LAYERS)
    ]
    known = {
        "run": spec.id,
        "status": status,
        "metrics": at_end if metrics is None else metrics,
        "epochs": [
            {"train_accuracy": accuracy - 20 + epoch, "test_accuracy": accuracy - 10 + epoch} for epoch in range(epochs)
        ],
        "fingerprints": {"data": "d", "init head 4x10": f"h{spec.seed}"},
        "timing": {"train": 1.0},
        "provenance": MADE,
        "error": error,
    }
    if status != "done":
        known |= {"metrics": {}, "epochs": []}
    return RunResult(**known, **({"probes": rows} if probes else {}))


def write_store(folder: Path, described=None, result_of=None, accuracy=value_of):
    """Make an output folder; ``result_of(spec, accuracy)`` gives a result, or None for a run that stays pending."""
    described = definition() if described is None else described
    specs = [RunSpec(arm["levels"], arm["recipe"], seed) for arm in described["arms"] for seed in described["seeds"]]
    with store.write(folder, described) as opened:
        opened.begin({"packs": []}, [(spec.id, spec.arm, spec.seed) for spec in specs])
        made = [(result_of or result)(spec, accuracy(spec.arm, spec.seed)) for spec in specs]
        opened.record([one for one in made if one is not None])
    return folder


def many_runs(folder: Path, runs: int, *, epochs: int = 20):
    """A store of about ``runs`` runs in 16 arms."""
    factors = {"model.activation": ["sigmoid", "relu"], "model.depth": list(range(1, 9))}
    described = definition(factors=factors, seeds=list(range(runs // 16)))
    generator = np.random.default_rng(0)
    return write_store(
        folder, described, lambda spec, accuracy: result(spec, accuracy, epochs=epochs), lambda *_: 80 + generator.normal()
    )


# ── a browser ───────────────────────────────────────────────────────────────────────────────────────────────────────


def browser() -> str | None:
    """A Chromium on this machine, if there is one."""
    return shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")


class Page:
    """An open page."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from, self._rest, self._number = to_browser, from_browser, b"", 0
        self.messages: list[dict] = []
        self._session = None

    def call(self, method: str, **params):
        """Send one command of the DevTools protocol and wait for its result; events go to ``messages``."""
        self._number += 1
        number = self._number
        request = {"id": number, "method": method, "params": params}
        if self._session:
            request["sessionId"] = self._session
        os.write(self._to, json.dumps(request).encode() + b"\0")
        while (message := self._next()).get("id") != number:
            self.messages.append(message)
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']}")
        return message["result"]

    def _next(self):
        while b"\0" not in self._rest:
            chunk = os.read(self._from, 1 << 20)
            if not chunk:
                raise RuntimeError("the browser left")
            self._rest += chunk
        raw, _, self._rest = self._rest.partition(b"\0")
        return json.loads(raw)

    def open(self, path: Path, *, width: int, height: int = 800, dark: bool = False):
        """Open a file in a viewport of exactly ``width`` CSS pixels."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = None
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.messages.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        while not any(message.get("method") == "Page.loadEventFired" for message in self.messages):
            self.messages.append(self._next())

    def evaluate(self, expression: str):
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def complaints(self) -> list[str]:
        """Console messages, uncaught errors and log entries since the page was opened."""
        self.evaluate("1")  # whatever was on its way is here now
        methods = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [json.dumps(message) for message in self.messages if message.get("method") in methods]

    def requests(self) -> list[str]:
        """Addresses that the page asked for, itself and ``data:`` aside."""
        sent = [message for message in self.messages if message.get("method") == "Network.requestWillBeSent"]
        addresses = [message["params"]["request"]["url"] for message in sent if message["params"].get("type") != "Document"]
        return [address for address in addresses if not address.startswith("data:")]

    def screenshot(self) -> bytes:
        from base64 import b64decode

        return b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"])


@contextmanager
def open_browser():
    """A headless Chromium with a profile of its own; ends with the block."""
    executable = browser()
    assert executable
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            *(executable, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
            *(f"--user-data-dir={profile}", "--remote-debugging-pipe"),
        ]
        # Chromium reads commands at 3 and answers at 4; copies far above keep one from closing the other.
        high = [fcntl.fcntl(end, fcntl.F_DUPFD, 100) for end in (to_read, from_write)]

        def place_pipes() -> None:
            for number, end in zip((3, 4), high, strict=True):
                os.dup2(end, number)

        process = subprocess.Popen(
            command, pass_fds=(3, 4), preexec_fn=place_pipes, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for end in high:
            os.close(end)
        os.close(to_read)
        os.close(from_write)
        try:
            yield Page(to_write, from_read)
        finally:
            process.terminate()
            process.wait(20)
            os.close(to_write)
            os.close(from_read)
