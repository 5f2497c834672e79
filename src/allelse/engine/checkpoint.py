"""Checkpoints: the state of a training in, one safetensors file out, and back. No pickle, so a file cannot run code.

A file holds a digest of all that is read back from it, so that one whose bits flipped is passed over like any other that is
cut, of another pack, or no checkpoint at all: its pack starts anew, and the log says so.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from typing_extensions import TypedDict

from allelse.errors import one_line

log = logging.getLogger("allelse")

Optimizer = torch.optim.Optimizer

FORMAT = "3"
"""Of the position; a checkpoint of another one is passed over, and its pack starts anew."""


class Position(TypedDict):
    """Where a training was, beside its tensors; of each list one entry a replica."""

    epoch: int
    seconds: dict[str, float]
    diverged: list[bool]
    history: list[list[dict[str, float]]]
    probes: list[list[dict[str, Any]]]
    fingerprints: list[dict[str, str]]


BEGINNING: Position = {"epoch": 0, "seconds": {}, "diverged": [], "history": [], "probes": [], "fingerprints": []}
_POSITION = TypeAdapter(Position)


class CannotSave(Exception):
    """A checkpoint could not be written; the one before is still there."""


def save_checkpoint(
    path: Path, pack: str, networks: Mapping[str, nn.Module], optimizers: Sequence[Optimizer], position: Position
) -> None:
    """Write all tensors and the ``position`` (plain JSON values; NaN allowed) to ``path``, whole or not at all.

    Raises:
        CannotSave: the disk is full, gone, or not writable.
    """
    tensors = _states(networks)
    numbers: dict[str, Any] = {}  # what an optimiser keeps outside of tensors
    for place, optimizer in enumerate(optimizers):
        for number, state in optimizer.state_dict()["state"].items():
            for name, value in state.items():
                (tensors if isinstance(value, Tensor) else numbers)[f"optimizer/{place}/{number}/{name}"] = value
    tensors = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    metadata = {"pack": pack, "format": FORMAT, "position": json.dumps(position), "numbers": json.dumps(numbers)}
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, partial, metadata={**metadata, "digest": _digest(tensors, metadata)})
        _sync(partial)
        os.replace(partial, path)
        with suppress(OSError):  # some file systems have no such thing
            _sync(path.parent)  # else a power cut may take the new name back
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)  # what it holds of a full disk is wanted for the results
        raise CannotSave(one_line(error)) from None


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Of the metadata and of every tensor's name, type, shape and bytes."""
    described = [[name, str(tensor.dtype), list(tensor.shape)] for name, tensor in sorted(tensors.items())]
    digest = hashlib.sha256(json.dumps([sorted(metadata.items()), described]).encode())
    for _, tensor in sorted(tensors.items()):
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _states(networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {f"{key}/{name}": tensor for key, network in networks.items() for name, tensor in network.state_dict().items()}


def load_checkpoint(
    path: Path, pack: str, networks: Mapping[str, nn.Module], optimizers: Sequence[Optimizer]
) -> Position | None:
    """Fill ``networks`` and ``optimizers`` from ``path``.

    Returns:
        the position, or ``None`` with all left as they were when there is no file, or one that is passed over.
    """
    if not os.path.lexists(path):
        return None
    try:
        tensor_from_name, position, states = _read(path, pack, len(optimizers))
        weights = {name: tensor for name, tensor in tensor_from_name.items() if not name.startswith("optimizer/")}
        here = _states(networks)
        if {name: t.shape for name, t in weights.items()} != {name: t.shape for name, t in here.items()}:
            raise ValueError("it is of another network")
    except (SafetensorError, OSError, ValueError, KeyError, IndexError, TypeError, RecursionError, MemoryError) as error:
        log.warning("%s is passed over, and its pack starts anew: %s", path.name, one_line(error)[:200])
        return None
    for name, tensor in here.items():
        tensor.copy_(weights[name])
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
        for number, parameter in enumerate(parameters):  # torch gives all that it loads the weights' type: other bits
            for field, value in state.get(number, {}).items():
                if isinstance(value, Tensor):
                    optimizer.state[parameter][field] = value.to(optimizer.state[parameter][field].device)
    return position


def _read(path: Path, pack: str, optimizers: int) -> tuple[dict[str, Tensor], Position, list[dict[int, dict[str, Any]]]]:
    """All tensors by name, the position, and the state of each optimiser by parameter; an exception says what is wrong."""
    if not path.is_file():
        raise ValueError("it is no file")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("pack") != pack or metadata.get("format") != FORMAT:
            raise ValueError("it is of another pack or another version")
        tensor_from_name = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    if metadata.pop("digest", None) != _digest(tensor_from_name, metadata):
        raise ValueError("it is not as it was written")
    position, numbers = _POSITION.validate_json(metadata["position"]), json.loads(metadata["numbers"])
    states: list[dict[int, dict[str, Any]]] = [{} for _ in range(optimizers)]
    for name, value in {**tensor_from_name, **numbers}.items():
        if name.startswith("optimizer/"):
            _, place, number, field = name.split("/")
            states[int(place)].setdefault(int(number), {})[field] = value
    lengths, diverged = [len(epochs) for epochs in position["history"]], position["diverged"]
    # The record of a replica that diverged ends there, while the others train on.
    if len(lengths) != len(diverged) or any(
        length > position["epoch"] or (length < position["epoch"] and not gone) for length, gone in zip(lengths, diverged)
    ):
        raise ValueError("it does not fit itself")
    return tensor_from_name, position, states
