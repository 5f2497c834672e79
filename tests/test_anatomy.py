"""The anatomy of a network: against formulas written out, and against torch's own layers under torch's own counter."""

from __future__ import annotations

import pytest
import torch
from engine_support import model_of
from plain_networks import plain_network
from test_exactness import MODELS
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from allelse.errors import StudyError
from allelse.models import anatomy, layer_rows


@pytest.mark.parametrize("model", MODELS)
def test_shapes_parameters_and_multiply_adds_are_those_of_torchs_layers(model):
    model = model_of(**MODELS[model])
    plain = plain_network(model).eval()
    shape_from_name: dict[str, tuple[int, ...]] = {}
    macs_from_name: dict[str, int] = {}

    def note(name: str):
        def hook(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
            with FlopCounterMode(display=False) as counter:
                module.forward(inputs[0])
            shape_from_name[name], macs_from_name[name] = tuple(output.shape[1:]), counter.get_total_flops() // 2

        return hook

    for name, module in plain.named_modules():
        module.register_forward_hook(note(name))
    plain(torch.zeros(1, 2, 6, 6, dtype=torch.float64))
    rows = [row for row in layer_rows(model, (6, 6, 2), 3) if not row.name.startswith(("pool.", "head_pool"))]
    for row in rows:
        assert row.output_shape == shape_from_name[row.name], row.name
        assert row.macs == macs_from_name[row.name], row.name
        assert row.parameters == sum(p.numel() for p in plain.get_submodule(row.name).parameters()), row.name
    assert sum(row.parameters for row in rows) == sum(p.numel() for p in plain.parameters())
    wanted = (nn.Identity, nn.Flatten, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Sequential)
    nothing = [name for name, module in plain.named_modules() if getattr(module, "rate", 1) == 0]
    layers = {name for name, module in plain.named_modules() if not isinstance(module, wanted)} - set(nothing)
    assert {row.name for row in rows} == layers


def test_a_network_row_by_row():
    model = model_of(
        stem={"width": 8, "kernel": 5},
        width=[8, 16],
        block="norm-act-conv-drop",
        dropout=0.1,
        residual=True,
        conv="depthwise-separable",
        kernel=[3, 5],
        pool=[1, 2],
        pool_kind="stride",
        norm={"name": "group", "groups": [2, 4]},
        head={"name": "flatten", "pool": 2, "hidden": [12]},
    )
    rows = {row.name: row for row in layer_rows(model, (32, 30, 3), 10)}
    assert {name: (row.kind, row.output_shape, row.parameters, row.macs) for name, row in rows.items()} == {
        "stem.conv": ("Conv2d 5×5, stride 1", (8, 32, 30), 25 * 3 * 8 + 8, 25 * 3 * 8 * 32 * 30),
        "blocks.0.norm": ("GroupNorm 2 groups", (8, 32, 30), 16, 0),
        "blocks.0.act": ("ReLU", (8, 32, 30), 0, 0),
        "blocks.0.conv.depthwise": ("Conv2d 3×3, stride 2, 8 groups", (8, 16, 15), 9 * 8, 9 * 8 * 16 * 15),
        "blocks.0.conv.pointwise": ("Conv2d 1×1, stride 1", (8, 16, 15), 8 * 8 + 8, 8 * 8 * 16 * 15),
        "blocks.0.drop": ("Dropout 0.1", (8, 16, 15), 0, 0),
        "blocks.0.shortcut": ("Conv2d 1×1, stride 2", (8, 16, 15), 8 * 8, 8 * 8 * 16 * 15),
        "blocks.1.norm": ("GroupNorm 4 groups", (8, 16, 15), 16, 0),
        "blocks.1.act": ("ReLU", (8, 16, 15), 0, 0),
        "blocks.1.conv.depthwise": ("Conv2d 5×5, stride 2, 8 groups", (8, 8, 8), 25 * 8, 25 * 8 * 8 * 8),
        "blocks.1.conv.pointwise": ("Conv2d 1×1, stride 1", (16, 8, 8), 8 * 16 + 16, 8 * 16 * 8 * 8),
        "blocks.1.drop": ("Dropout 0.1", (16, 8, 8), 0, 0),
        "blocks.1.shortcut": ("Conv2d 1×1, stride 2", (16, 8, 8), 8 * 16, 8 * 16 * 8 * 8),
        "head_pool": ("AvgPool2d 2×2", (16, 4, 4), 0, 0),
        "hidden.0.linear": ("Linear", (12,), 256 * 12 + 12, 256 * 12),
        "hidden.0.act": ("ReLU", (12,), 0, 0),
        "head": ("Linear", (10,), 12 * 10 + 10, 12 * 10),
    }
    assert [row.activations for row in rows.values()][:4] == [8 * 32 * 30] * 3 + [8 * 16 * 15]


def test_images_that_are_too_small_are_refused_in_one_line():
    with pytest.raises(StudyError, match="pool less often"):
        layer_rows(model_of(pool=[1, 2], pool_kind="stride"), (2, 2, 1), 3)


class Gated(nn.Module):
    """Computes itself, with a parameter of its own, and has a part that computes, too."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Linear(32, 32, bias=False)
        self.weight = nn.Parameter(torch.zeros(5, 32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.part(x.flatten(1)) @ self.weight.T


def test_what_a_part_of_a_layer_computes_is_counted_once(monkeypatch):
    monkeypatch.setattr(anatomy, "build_network", lambda *arguments, replicas: nn.Sequential(nn.Sequential(Gated())))
    rows = layer_rows(model_of(), (4, 4, 2), 3)
    assert [(row.name, row.parameters, row.macs) for row in rows] == [("0.0.part", 1024, 1024), ("0.0", 160, 160)]
