"""Speeds that were measured once on this machine: a pack in, its images a second out, remembered in the user's cache folder."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import filelock
import platformdirs
import torch

import allelse
from allelse import engine
from allelse.data import Dataset
from allelse.design import arm_text
from allelse.errors import one_line
from allelse.recipe import OwnPart, Recipe
from allelse.records import Pack, Way, canonical_json, digest

log = logging.getLogger("allelse")


class Speeds:
    """Measures packs on one device; what was measured before, in this process or another, is not measured again."""

    def __init__(self, device: torch.device, dataset_of: Callable[[Recipe], Dataset]) -> None:
        self.device = device
        self.dataset_of = dataset_of
        self.file = platformdirs.user_cache_path("allelse") / "speeds.json"

    def images_per_second(self, pack: Pack) -> float | None:
        """The measured or remembered speed of ``pack``, over all its replicas; ``None`` where it cannot even take a step."""
        recipe = Recipe.model_validate(pack.recipe)
        dataset = self.dataset_of(recipe)
        key = digest(
            {
                "device": engine.describe_device(self.device),
                "torch": torch.__version__,
                "allelse": allelse.__version__,
                "dtype": str(engine.compute_dtype(recipe.precision, self.device)),
                "recipe": recipe.model_dump(mode="json", include={"model", "batch_size", "augment", "averaging"}),
                "optimizer": recipe.optimizer.plain() if isinstance(recipe.optimizer, OwnPart) else recipe.optimizer.name,
                "images": [*dataset.train_images.shape, len(dataset.classes)],
                "replicas": len(pack.runs),
                "way": asdict(pack.way),
                **({"loss": recipe.loss.plain()} if isinstance(recipe.loss, OwnPart) else {}),
                **({"clipped": True} if recipe.max_grad_norm is not None else {}),
                "numbers": len({canonical_json([run.recipe.get("optimizer")]) for run in pack.runs}) > 1,
            },
            length=24,
        )
        remembered = self._read().get(key)
        if remembered is not None:
            return remembered
        try:
            rate = engine.images_per_second(pack, dataset, self.device)
        except (RuntimeError, ValueError, MemoryError) as error:  # a run that cannot train is recorded when its turn comes
            arm, said = arm_text(pack.runs[0].arm) or "the only arm", one_line(error) or type(error).__name__
            if len(pack.runs) == 1 and pack.way == Way():
                log.warning("a network as in %s cannot take a step, so its time is not known: %s", arm, said)
            else:  # another size or way is taken
                log.info("%d networks as in %s cannot take a step as %s: %s", len(pack.runs), arm, pack.way, said)
            return None
        finally:
            if self.device.type == "cuda":  # else a worker that trains on the same device finds less memory than was measured
                torch.cuda.empty_cache()
        self._remember(key, rate)
        return rate

    def _read(self) -> dict[str, float]:
        try:
            speeds = json.loads(self.file.read_text()) if self.file.is_file() else {}
            return {key: float(rate) for key, rate in speeds.items() if isinstance(rate, int | float) and 0 < rate < 1e15}
        except (OSError, ValueError, AttributeError, RecursionError):
            return {}  # nothing was measured yet, or the file is damaged: it is only a memory

    def _remember(self, key: str, rate: float) -> None:
        with suppress(OSError):  # a cache folder that cannot be written costs a measurement, no more
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(self.file.with_suffix(".lock"), timeout=5):
                partial = Path(f"{self.file}.partial")
                partial.write_text(json.dumps({**self._read(), key: rate}))
                os.replace(partial, self.file)
