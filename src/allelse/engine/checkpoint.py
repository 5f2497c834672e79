"""Checkpoints: the state of a training in, one safetensors file out, and back. No pickle, so a file cannot run code."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

Optimizer = torch.optim.Optimizer

FORMAT = "2"
"""Of the position; a checkpoint of another one is passed over, and its pack starts anew."""


def save_checkpoint(
    path: Path, pack: str, networks: Mapping[str, nn.Module], optimizers: Sequence[Optimizer], position: dict[str, Any]
) -> None:
    """Write all tensors and the ``position`` (plain JSON values; NaN allowed) to ``path``, whole or not at all."""
    tensors = _states(networks)
    numbers: dict[str, Any] = {}  # what an optimiser keeps outside of tensors
    for place, optimizer in enumerate(optimizers):
        for number, state in optimizer.state_dict()["state"].items():
            for name, value in state.items():
                (tensors if isinstance(value, Tensor) else numbers)[f"optimizer/{place}/{number}/{name}"] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")
    tensors = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    metadata = {"pack": pack, "format": FORMAT, "position": json.dumps(position), "numbers": json.dumps(numbers)}
    save_file(tensors, temporary, metadata=metadata)
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _states(networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {f"{key}/{name}": tensor for key, network in networks.items() for name, tensor in network.state_dict().items()}


def load_checkpoint(
    path: Path, pack: str, networks: Mapping[str, nn.Module], optimizers: Sequence[Optimizer]
) -> dict[str, Any] | None:
    """Fill ``networks`` and ``optimizers`` from ``path``.

    Returns:
        the position, or ``None`` with all left as they were when the file is damaged or belongs to another pack.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("pack") != pack or metadata.get("format") != FORMAT:
                return None
            position: dict[str, Any] = json.loads(metadata["position"])
            numbers: dict[str, Any] = json.loads(metadata.get("numbers", "{}"))
            tensor_from_name = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError, KeyError):
        return None
    states: list[dict[int, dict[str, Any]]] = [{} for _ in optimizers]
    for name, value in {**tensor_from_name, **numbers}.items():
        if name.startswith("optimizer/"):
            _, place, number, field = name.split("/")
            states[int(place)].setdefault(int(number), {})[field] = value
    weights = {name: tensor for name, tensor in tensor_from_name.items() if not name.startswith("optimizer/")}
    shapes = [{name: t.shape for name, t in tensors.items()} for tensors in (weights, _states(networks))]
    if shapes[0] != shapes[1] or not isinstance(position, dict):
        return None
    for name, tensor in _states(networks).items():
        tensor.copy_(weights[name])
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
        for number, parameter in enumerate(parameters):  # torch gives all that it loads the weights' type: other bits
            for field, value in state.get(number, {}).items():
                if isinstance(value, Tensor):
                    optimizer.state[parameter][field] = optimizer.state[parameter][field].to(value.dtype)
    return position
