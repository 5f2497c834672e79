"""The benchmark suite: its figures mean what the page says, all ways do the same mathematics, and one command runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from allelse import store
from allelse.fit import parameters
from benchmarks import growth, growth_store
from benchmarks.speed import floor, grid, loops
from benchmarks.speed.aims import aims
from benchmarks.speed.feed import Feed
from benchmarks.speed.grid import Cell, Job
from benchmarks.speed.networks import ConvNet, Heads, network_of_layers
from benchmarks.speed.ours import noise, study_of
from benchmarks.speed.page import page
from benchmarks.speed.reading import Reading
from benchmarks.speed.suite import Figures
from benchmarks.speed.worker import WayError, Worker

ROOT = Path(__file__).parents[1]
SMALL = Cell(width=16, norm="BatchNorm", batch=2, replicas=3)
MACHINE = {
    "device": "a CPU",
    "type": "cpu",
    "precision": "bf16",
    "threads": 2,
    "images": "CIFAR-10",
    "torch": "2.13.0",
    "cuda": None,
    "python": "3.11.7",
    "system": "Linux",
    "allelse": "0.1.0",
}


# ── the floor ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_floor_computed_by_hand():
    cell = Cell(width=32, norm="BatchNorm", batch=2, replicas=4)
    stem, blocks, linear = 2 * 27 * 32 * 1024, 4 * 2 * 9 * 32 * 32 * 1024, 2 * 32 * 10
    flop = 3 * (stem + blocks + linear) - stem
    assert cell.flop_an_image == flop == 230_033_280
    image = 3 * 1024 * (1 + 2 + 2)  # uint8 read; bf16 written and read
    outputs = 5 * 32 * 1024 * 2 * 4  # five convolutions, bf16: written, read; their gradients written, read
    learned = (27 * 32 + 32) + 4 * (9 * 32 * 32 + 32) + 4 * 64 + 330
    moved = 4 * (2 * (image + outputs) + 40 * learned)
    assert floor.step_bytes(cell, "bf16") == moved == 16_764_480
    slow_memory = floor.images_per_second(cell, "bf16", floor.Rates(matrix=1e12, copy=1e9))
    assert slow_memory == pytest.approx(8 / (moved / 1e9))
    slow_arithmetic = floor.images_per_second(cell, "bf16", floor.Rates(matrix=1e10, copy=1e12))
    assert slow_arithmetic == pytest.approx(8 / (8 * flop / 1e10))


@pytest.mark.parametrize("norm", grid.NORMS)
def test_work_is_what_torch_counts_and_allelse_learns(norm):
    cell = Cell(width=16, norm=norm, batch=3, replicas=1, depth=2)
    network = ConvNet(cell, torch.float32)
    with FlopCounterMode(display=False) as counter:
        network(torch.randn(3, 3, 32, 32)).sum().backward()
    assert counter.get_total_flops() == 3 * cell.flop_an_image
    assert sum(parameter.numel() for parameter in network.parameters()) == cell.parameters
    assert parameters(study_of(cell).arms[0], noise("cifar10")) == cell.parameters


# ── all ways do the same ────────────────────────────────────────────────────────────────────────────────────────────


def put_side_by_side(networks: list[ConvNet], together: nn.Sequential) -> None:
    """Give the layers of ``together`` the weights of ``networks``."""
    convolutions = [layer for layer in together if isinstance(layer, nn.Conv2d)]
    norms = [layer for layer in together if isinstance(layer, (nn.BatchNorm2d, nn.GroupNorm))]
    with torch.no_grad():
        for number, layer in enumerate(convolutions):
            layer.weight.copy_(torch.cat([network.convolutions[number].weight for network in networks]))
            layer.bias.copy_(torch.cat([network.convolutions[number].bias for network in networks]))
        for number, layer in enumerate(norms):
            layer.weight.copy_(torch.cat([network.scales[number] for network in networks]))
            layer.bias.copy_(torch.cat([network.shifts[number] for network in networks]))
        together[-1].weight_RFK.copy_(torch.stack([network.head.weight.T for network in networks]))
        together[-1].bias_R1K.copy_(torch.stack([network.head.bias[None] for network in networks]))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    written = {"images": pixels, "labels": np.arange(7), "mean": pixels.mean((0, 1, 2)), "sd": pixels.std((0, 1, 2))}
    for what, values in written.items():
        np.save(tmp_path / f"cifar10-{what}.npy", values)
    return tmp_path


@pytest.mark.parametrize("norm", grid.NORMS)
def test_grouped_and_vmap_train_as_lone_networks_do(norm, images):
    cell = replace(SMALL, norm=norm)
    torch.manual_seed(0)
    job = Job(cell, "cpu", "fp32", images, 0.1, 100, None)
    vmap, grouped = loops.Vmap(job), loops.Grouped(job)
    for name, parameter in vmap.parameters.items():  # scales and shifts that are seen
        if name.startswith(("scales", "shifts")):
            parameter.data += torch.rand(parameter.shape)
    lone = [ConvNet(cell, torch.float32) for _ in range(3)]
    for replica, network in enumerate(lone):
        network.load_state_dict({name: values[replica] for name, values in vmap.parameters.items()}, strict=False)
    put_side_by_side(lone, grouped.network)
    x_RBHWC, labels_RB = torch.randn(3, 2, 32, 32, 3), torch.randint(0, 10, (3, 2))
    losses = []
    for network, x, labels in zip(lone, x_RBHWC, labels_RB, strict=True):
        loss = F.cross_entropy(network(x.permute(0, 3, 1, 2)), labels)
        loss.backward()
        losses.append(loss.detach())
    for way in (vmap, grouped):
        loss_R, _ = way.train(x_RBHWC, labels_RB)
        assert torch.allclose(loss_R.detach(), torch.stack(losses), atol=1e-5)
    for number, layer in enumerate(layer for layer in grouped.network if isinstance(layer, nn.Conv2d)):
        expected = torch.stack([network.convolutions[number].weight.grad for network in lone])
        for found in (vmap.parameters[f"convolutions.{number}.weight"].grad, layer.weight.grad.view_as(expected)):
            assert (found - expected).norm() < 1e-2 * expected.norm()  # fp32; a ReLU may fall either way


def test_the_plain_network_is_the_same_one():
    lone, plain = ConvNet(SMALL, torch.float32), network_of_layers(SMALL, 1, Heads(1, 16))
    put_side_by_side([lone], plain)
    x = torch.randn(2, 3, 32, 32)
    assert torch.allclose(plain(x)[0], lone(x), atol=1e-5)


def test_batches_on_the_device_are_crops_of_the_images(images):
    feed = Feed(Job(SMALL, "cpu", "fp32", images, 0.1, 100, None), 3, torch.float32)
    pixels = np.load(images / "cifar10-images.npy")
    scaled = (pixels - pixels.mean((0, 1, 2))) / pixels.std((0, 1, 2))
    black = -pixels.mean((0, 1, 2)) / pixels.std((0, 1, 2))
    padded = np.tile(black, (7, 40, 40, 1))
    padded[:, 4:36, 4:36] = scaled
    for _ in range(2):  # epochs
        seen = []
        for step in range(3):
            feed.before_step()
            x_RBHWC, labels_RB = feed.batches()
            seen.append(labels_RB)
            for replica in range(3):
                for place, label in enumerate(labels_RB[replica]):
                    top, left = feed.crop_2Rn[:, replica, 2 * step + place]
                    expected = padded[label, top : top + 32, left : left + 32]
                    if feed.flip_Rn[replica, 2 * step + place]:
                        expected = expected[:, ::-1]
                    assert np.allclose(x_RBHWC[replica, place], expected, atol=1e-4)
        orders = torch.cat(seen, 1)
        assert all(len(set(order.tolist())) == 6 for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) > 1  # each replica has its own


# ── grid, figures, page ─────────────────────────────────────────────────────────────────────────────────────────────


def test_the_grid_is_whole_and_starts_with_what_tells_most():
    cells = grid.cells()
    asked = {(cell.batch, cell.replicas, cell.width, cell.norm) for cell in cells if cell.data == "cifar10"}
    assert asked >= {
        (batch, replicas, width, norm)
        for batch in (2, 8, 32, 128, 512)
        for replicas in (1, 4, 10, 32)
        for width in (32, 64, 256)
        for norm in ("BatchNorm", "GroupNorm")
    }
    assert len({cell.name for cell in cells}) == len(cells) == 125
    first = cells[:20]
    assert all(cell.norm == "BatchNorm" and cell.batch <= 128 and cell.width <= 64 for cell in first)
    assert {cell.batch for cell in first} >= {2, 8, 32, 128}


def test_words_choose_cells():
    chosen = grid.chosen(["narrow", "b2", "B8", "batchnorm"])
    assert {(cell.width, cell.batch, cell.norm) for cell in chosen} == {(32, 2, "BatchNorm"), (32, 8, "BatchNorm")}
    assert len(chosen) == 8
    assert grid.chosen([]) == grid.cells()
    with pytest.raises(ValueError, match=r"--cells b3: no cell has it; allowed: .*b128"):
        grid.chosen(["narrow", "b3"])


def record(matrix: float = 1e11, choose_s: float = 0.0, **turns_from_way: list[float]) -> dict:
    ways = {way: {"turns": turns, "start_s": 1.0, "memory": "channels_last"} for way, turns in turns_from_way.items()}
    ways["allelse"] |= {"replicas": 4, "choose_s": choose_s}
    return {"date": "2026-01-01", "seconds": 1.0, "matrix": [matrix], "copy": [1e9], "ways": ways}


def test_ratios_are_of_medians():
    reading = Reading(SMALL, record(choose_s=99.0, allelse=[10.0, 30.0, 90.0], serial=[15.0, 1.0, 100.0]), "bf16")
    assert reading.rate("allelse") == 30
    assert reading.over("serial") == 2
    assert reading.over("vmap") is None
    assert reading.runs_per_hour() == pytest.approx(3600 * 30 / 1_000_000)
    study = 3 * 1_000_000
    assert reading.over_with_all("serial") == pytest.approx((study / 15 + 1) / (study / 30 + 100))
    assert reading.choosing_share() == pytest.approx(99 / (study / 30 + 100))
    assert reading.share_of_matrix_rate() == pytest.approx(30 * SMALL.flop_an_image / 1e11)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_cell_of_the_grid_is_on_the_page(device):
    cells = grid.cells()
    full = record(allelse=[40.0], serial=[20.0], plain=[10.0])
    full["ways"]["vmap"] = {"not_measured": "out of memory"}
    records = {
        cells[0].name: full,
        cells[5].name: full,
        cells[6].name: {"date": "2026-01-02", "not_measured": "≥ 9 s a step of one network"},
    }
    text = page({**MACHINE, "type": device}, records)
    rows, size = [], ""
    for line in text.split("## GroupNorm against")[0].splitlines():
        if line.startswith("## "):
            size = line[3:].split(":")[0].lower()
        elif line.startswith(("| BatchNorm", "| GroupNorm")):
            norm, batch, replicas, *rest = (part.strip() for part in line.strip("| ").split("|"))
            rows.append((f"{size} {norm.lower()} b{batch} r{replicas}", rest))
    assert sorted(name for name, _ in rows) == sorted(cell.name for cell in cells)
    found = dict(rows)
    assert found[cells[5].name][:2] == ["4", "40.0"]
    assert found[cells[5].name][3:8] == ["2.00", "—", "4.00", "—", "out of memory"]
    assert found[cells[6].name][0] == "not measured: ≥ 9 s a step of one network"
    others = [rest[0] for name, rest in rows if name not in records]
    assert set(others) == {"not measured: not reached yet"}
    assert "2026-01-01 to 2026-01-02" in text
    assert "2.13.0" in text


def test_aims_follow_the_figures():
    fast = {cell.name: record(allelse=[40.0], serial=[20.0], plain=[10.0]) for cell in grid.cells()}
    slowed = {**fast, "middle batchnorm b128 r4": record(allelse=[18.0], serial=[20.0], plain=[10.0], choose_s=1e9)}

    def met(records: dict, device: str) -> dict[str, bool | None]:
        readings = [Reading(cell, records.get(cell.name), "bf16") for cell in grid.cells()]
        return {aim.says.split(",")[0]: aim.met for aim in aims(readings, device)}

    assert met(fast, "cpu")["≥ 2.3× the plain loop at batch 128 (middle)"] is True
    assert met(slowed, "cpu")["≥ 2.3× the plain loop at batch 128 (middle)"] is False
    assert met(slowed, "cpu")["≥ 1.0× strong serial everywhere"] is False
    assert met(fast, "cpu")["choosing the pack under 3 % of the training"] is True
    assert met(slowed, "cpu")["choosing the pack under 3 % of the training"] is False
    assert met({}, "cpu")["≥ 3× the plain loop at batch 2 with 8 seeds (middle)"] is None
    assert met(fast, "cuda")["≥ 10× strong serial at batch 2"] is False
    assert met(fast, "cuda")["≥ 1.0× strong serial everywhere"] is True


def test_figures_go_on_where_they_stopped(tmp_path):
    def never() -> dict:
        raise AssertionError("measured twice")

    file = tmp_path / "speed-cpu.json"
    assert list(Figures(file, MACHINE).fill([("a", lambda: {"x": 1})], deadline=float("inf"))) == ["a"]
    again = Figures(file, MACHINE)
    assert list(again.fill([("a", never), ("b", dict)], deadline=float("inf"))) == ["b"]
    assert again.records["a"]["x"] == 1
    third = Figures(file, MACHINE)
    assert list(third.fill([("c", dict), ("d", dict)], deadline=0.0)) == ["c"]  # one, and then the time is up
    with pytest.raises(ValueError, match=r"another machine or version \(torch: 2\.13\.0 → 3\.0\)"):
        Figures(file, {**MACHINE, "torch": "3.0"})


def test_growth_stores_runs_and_its_page_has_every_row(tmp_path):
    count = growth.fill_store(tmp_path / "out", 33)
    with store.read(tmp_path / "out") as opened:
        runs = opened.runs()
    assert count == len(runs) == 64  # two seeds of 32 arms
    assert all(run.status == "done" and run.result and len(run.result.epochs) == 20 for run in runs)
    records = {"small study": {"date": "2026-01-01", "run": 120.0, "choosing": 2.0}}
    text = growth.page(MACHINE, records)
    assert "120 s (aim: under 100 s, **not met**)" in text
    assert "1.7 % (aim: under 3 %, met)" in text
    for what in ("| 16 | ", "| 128 | ", "| 10,000 | "):
        assert f"{what}not measured: not reached yet |" in text
    assert text.count("not measured: not reached yet") == 5 + 4 + 4 + 5 + 2


def test_the_page_of_a_growing_store_has_every_size_and_says_what_is_met():
    turns = {name: growth_store.Turn(1.5, 0.5) for name in growth_store.COMMANDS}
    text = growth_store.page({1_008: (20.0, turns), 10_016: (200.0, turns)}, times=3)
    assert "With 10,016 runs: `status` 1.50 s of wall time (aim: under 1 s, **not met**), 0.50 s of processor time" in text
    assert "`results` 1.50 s of wall time (aim: under 2 s, met)" in text
    assert "| 1,008 | 20 | 1.50 | 1.50 | 1.50 | 1.50 |" in text
    assert "| 10,016 | 0.50 | 0.50 | 0.50 | 0.50 |" in text


def test_a_way_that_fails_says_why(images):
    worker = Worker("grouped")
    worker.send("prepare", Job(replace(SMALL, batch=0), "cpu", "fp32", images, 0.1, 100, None))
    with pytest.raises(WayError, match=r"^\w+Error: "):
        worker.receive(60)
    assert not worker.process.is_alive()
    worker.stop()  # once more does no harm
    worker = Worker("grouped")
    worker.process.kill()
    worker.send("drop")
    with pytest.raises(WayError, match="its process ended"):
        worker.receive(60)


# ── the command ─────────────────────────────────────────────────────────────────────────────────────────────────────


def run(*words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "benchmarks.speed", "--device", "cpu", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_one_cell_through_the_command(tmp_path):
    words = ("--out", str(tmp_path), "--cells", "digits", "b2", "r5", "--turns", "1", "--turn", "0.01")
    done = run(*words)
    assert done.returncode == 0, done.stderr
    assert "1 of 1 cells are there" in done.stdout
    kept = json.loads((tmp_path / "speed-cpu.json").read_text())
    (cell,) = kept["records"].values()
    assert set(cell["ways"]) == {"allelse", "serial", "processes", "plain", "grouped", "vmap"}
    for way, found in cell["ways"].items():
        assert "turns" in found or (way == "processes" and kept["machine"]["threads"] == 1), (way, found)
    assert cell["ways"]["allelse"]["memory"] == cell["ways"]["serial"]["memory"] == "channels_last"
    assert "digits batchnorm b2 r5" in (tmp_path / "speed-cpu.md").read_text()


def test_the_command_names_what_is_wrong():
    done = run("--cells", "b3")
    assert done.returncode == 2
    assert done.stderr.startswith("benchmarks.speed: --cells b3: no cell has it; allowed: ")
