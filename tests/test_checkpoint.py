"""Killed and resumed equals never killed, bit for bit (invariant 3); files that are no checkpoint are passed over."""

from __future__ import annotations

import json
import os
import pickle
import random
import struct
from itertools import product
from pathlib import Path

import pytest
import torch
from engine_support import CPU, CROSSED_OPTIMIZERS, NORMS, OPTIMIZERS, pack_of, tiny_recipe, toy_dataset
from safetensors import safe_open

from allelse.engine import loop, train_pack
from allelse.records import Pack, RunResult, RunSpec

AUGMENT = ["flip", {"name": "crop", "padding": 1}, {"name": "cutout", "size": 2}]


class Killed(Exception):
    pass


@pytest.fixture(autouse=True)
def _checkpoint_each_epoch(monkeypatch):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)


def values_of(**changes):
    given = {"epochs": 4, "augment": AUGMENT, "precision": "fp32", "train_per_class": 7, "validation_per_class": 1}
    return tiny_recipe(**{**given, "schedule": "cosine", **changes})


def what_lasts(results: list[RunResult]) -> str:
    """Everything of the results but times and place, in full precision."""
    return json.dumps(
        [[r.run, r.status, r.error, dict(r.metrics), list(r.epochs), dict(r.fingerprints)] for r in results], sort_keys=True
    )


def train_until(epoch: int, pack, dataset, path: Path) -> None:
    """Train, and be killed when ``epoch`` epochs are done but the last of them is not saved yet."""

    def kill(progress) -> None:
        if progress.epoch >= epoch:
            raise Killed

    with pytest.raises(Killed):
        train_pack(pack, dataset, CPU, path, kill)


@pytest.fixture
def final_states(monkeypatch) -> list[dict[str, torch.Tensor]]:
    """The weights and buffers at the end of each training."""
    states = []
    results = loop.Training.results

    def spy(training):
        states.append({name: values.clone() for name, values in training.network.state_dict().items()})
        return results(training)

    monkeypatch.setattr(loop.Training, "results", spy)
    return states


@pytest.mark.parametrize(
    ("optimizer", "precision"),
    [*product(OPTIMIZERS, ["fp32", "fp64"]), *product(CROSSED_OPTIMIZERS, ["bf16"])],
)
def test_killed_and_resumed_equals_never_killed(optimizer, precision, tmp_path, final_states):
    dataset = toy_dataset()
    schedule = "constant" if optimizer == "rprop" else "cosine"
    values = values_of(optimizer=OPTIMIZERS[optimizer], precision=precision, model={"activation": "prelu"}, schedule=schedule)
    pack = pack_of(values)
    whole = train_pack(pack, dataset, CPU, tmp_path / "whole")
    for number, epochs in enumerate([(2,), (3,), (1, 2, 3, 4)]):
        path = tmp_path / str(number)
        for epoch in epochs:
            train_until(epoch, pack, dataset, path)
        assert path.exists() == (epochs[-1] > 1)
        assert what_lasts(train_pack(pack, dataset, CPU, path)) == what_lasts(whole)
        for name, values in final_states[0].items():
            assert torch.equal(final_states[-1][name], values), name


def test_dropout_goes_on_with_the_masks_that_would_have_come(tmp_path, final_states):
    dataset = toy_dataset()
    model = {"block": "conv-norm-act-drop", "dropout": 0.3, "head": {"hidden": [6], "dropout": 0.5}}
    pack = pack_of(values_of(model=model))
    whole = train_pack(pack, dataset, CPU)
    for epoch in (2, 3):
        train_until(epoch, pack, dataset, tmp_path / "c")
    assert what_lasts(train_pack(pack, dataset, CPU, tmp_path / "c")) == what_lasts(whole)
    for name, values in final_states[0].items():
        assert torch.equal(final_states[-1][name], values), name


class CountedSGD(torch.optim.SGD):
    """Keeps the number of its steps as a plain number, and takes smaller ones by it."""

    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                steps = self.state[parameter].get("steps", 0) + 1
                self.state[parameter]["steps"] = steps
                parameter.grad /= steps
        super().step()


class FineSGD(torch.optim.SGD):
    """Keeps the weights in float64, whatever they are trained in."""

    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                fine = self.state[parameter].setdefault("fine", parameter.detach().double())
                fine -= group["lr"] * parameter.grad.double()
                parameter.data.copy_(fine)


@pytest.mark.parametrize("kind", [CountedSGD, FineSGD])
def test_what_an_optimiser_keeps_is_saved_to_the_bit_whatever_it_is(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "build_optimizer", lambda network, optimizer, lr: kind(network.parameters(), lr))
    dataset, pack = toy_dataset(), pack_of(values_of())
    whole = train_pack(pack, dataset, CPU)
    train_until(3, pack, dataset, tmp_path / "c")
    assert what_lasts(train_pack(pack, dataset, CPU, tmp_path / "c")) == what_lasts(whole)


@pytest.mark.parametrize("norm", NORMS)
def test_resuming_goes_on_where_the_checkpoint_was(norm, tmp_path):
    dataset = toy_dataset()
    pack = pack_of(values_of(model={"norm": NORMS[norm]}))
    train_until(3, pack, dataset, tmp_path / "c")
    epochs = []
    resumed = train_pack(
        pack, dataset, CPU, tmp_path / "c", lambda now: epochs.append(now.epoch) if now.doing == "training" else None
    )
    assert min(epochs) == 3, "two epochs were saved, the third is the next"
    assert what_lasts(resumed) == what_lasts(train_pack(pack, dataset, CPU))


def test_a_finished_training_is_not_trained_again(tmp_path):
    dataset, pack = toy_dataset(), pack_of(values_of())
    whole = train_pack(pack, dataset, CPU, tmp_path / "c")
    again = train_pack(
        pack, dataset, CPU, tmp_path / "c", lambda now: pytest.fail("trained again") if now.doing == "training" else None
    )
    assert what_lasts(again) == what_lasts(whole)


def test_a_diverged_replica_is_still_diverged_after_a_resume(tmp_path):
    dataset = toy_dataset()
    model = {"norm": "none", "activation": "identity"}
    pack = pack_of(values_of(optimizer={"name": "sgd", "lr": 1e4}, model=model))
    whole = train_pack(pack, dataset, CPU)
    statuses = {result.status for result in whole}
    assert "diverged" in statuses
    done = len(whole[0].epochs)
    assert done > 1
    train_until(done, pack, dataset, tmp_path / "c")
    assert what_lasts(train_pack(pack, dataset, CPU, tmp_path / "c")) == what_lasts(whole)


def test_a_pack_goes_on_from_its_checkpoint_when_one_of_its_replicas_has_diverged(tmp_path):
    dataset, rates = toy_dataset(), (0.05, 1e30)
    model = {"norm": "none", "activation": "identity"}
    pack = Pack(tuple(RunSpec({}, values_of(optimizer={"name": "sgd", "lr": lr}, model=model), 1) for lr in rates))
    whole = train_pack(pack, dataset, CPU)
    assert [(result.status, len(result.epochs)) for result in whole] == [("done", 4), ("diverged", 1)]
    train_until(4, pack, dataset, tmp_path / "c")
    epochs = []
    resumed = train_pack(
        pack, dataset, CPU, tmp_path / "c", lambda now: epochs.append(now.epoch) if now.doing == "training" else None
    )
    assert min(epochs) == 4, "three epochs were saved"
    assert what_lasts(resumed) == what_lasts(whole)


class Bomb:
    def __reduce__(self):
        return Path.touch, (Path(Bomb.path),)


def _truncated(content: bytes) -> bytes:
    return content[:-9]


def _header_only(content: bytes) -> bytes:
    return content[: struct.unpack("<Q", content[:8])[0] + 8]


def _no_header(content: bytes) -> bytes:
    return content[8:]


DAMAGES = {
    "empty": lambda content: b"",
    "truncated": _truncated,
    "cut in half": lambda content: content[: len(content) // 2],
    "header only": _header_only,
    "no header": _no_header,
    "text": lambda content: b"hello, world",
    "zeros": lambda content: bytes(len(content)),
    "pickle": lambda content: pickle.dumps(Bomb()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_passed_over_and_runs_no_code(damage, tmp_path):
    dataset, pack = toy_dataset(), pack_of(values_of(epochs=2))
    path, Bomb.path = tmp_path / "c", str(tmp_path / "bomb")
    whole = train_pack(pack, dataset, CPU, path)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert what_lasts(train_pack(pack, dataset, CPU, path)) == what_lasts(whole)
    assert not Path(Bomb.path).exists()


def test_a_pickle_saved_by_torch_is_passed_over(tmp_path):
    dataset, pack = toy_dataset(), pack_of(values_of(epochs=2))
    Bomb.path = str(tmp_path / "bomb")
    torch.save({"bomb": Bomb()}, tmp_path / "c")
    assert what_lasts(train_pack(pack, dataset, CPU, tmp_path / "c")) == what_lasts(train_pack(pack, dataset, CPU))
    assert not Path(Bomb.path).exists()


@pytest.mark.parametrize("other", ["seeds", "optimizer", "width"])
def test_the_checkpoint_of_another_pack_is_passed_over(other, tmp_path):
    dataset, pack = toy_dataset(), pack_of(values_of(epochs=2))
    others = {
        "seeds": pack_of(values_of(epochs=2), (3, 1, 12)),
        "optimizer": pack_of(values_of(epochs=2, optimizer="adam")),
        "width": pack_of(values_of(epochs=2, model={"width": 6})),
    }
    train_pack(others[other], dataset, CPU, tmp_path / "c")
    assert what_lasts(train_pack(pack, dataset, CPU, tmp_path / "c")) == what_lasts(train_pack(pack, dataset, CPU))


class FullDisk:
    """A disk that takes some bytes and then no more, from one moment on."""

    def __init__(self, monkeypatch):
        from allelse.engine import checkpoint

        self.full, real = False, checkpoint.save_file

        def save_file(tensors, path, metadata):
            real(tensors, path, metadata)
            if self.full:
                Path(path).write_bytes(b"half")
                raise OSError(28, "No space left on device")

        monkeypatch.setattr(checkpoint, "save_file", save_file)


def test_a_checkpoint_that_cannot_be_written_costs_a_warning_and_leaves_the_one_before(tmp_path, monkeypatch, caplog):
    dataset, pack, disk = toy_dataset(), pack_of(values_of()), FullDisk(monkeypatch)
    whole = what_lasts(train_pack(pack, dataset, CPU))
    train_until(2, pack, dataset, tmp_path / "c")
    before = (tmp_path / "c").read_bytes()
    disk.full = True
    assert what_lasts(train_pack(pack, dataset, CPU, tmp_path / "c")) == whole
    assert [entry.name for entry in tmp_path.iterdir()] == ["c"], "half a file is taken away"
    assert (tmp_path / "c").read_bytes() == before
    said = [record.getMessage() for record in caplog.records if "checkpoint" in record.getMessage()]
    assert said == [f"pack {pack.id} goes on without a checkpoint, which cannot be written: [Errno 28] No space left on device"]


def test_a_folder_that_vanishes_costs_a_warning(tmp_path, caplog):
    (tmp_path / "file").touch()
    dataset, pack = toy_dataset(), pack_of(values_of(epochs=2))
    result = train_pack(pack, dataset, CPU, tmp_path / "file" / "c")
    assert {each.status for each in result} == {"done"}
    assert "goes on without a checkpoint" in caplog.text


def test_every_bit_counts(tmp_path, caplog):
    """Wherever one bit flips, the pack starts anew or, where the bit is of no value, goes on; never with other numbers."""
    dataset, pack = toy_dataset(), pack_of(values_of(epochs=3))
    whole = what_lasts(train_pack(pack, dataset, CPU))
    train_until(3, pack, dataset, tmp_path / "c")
    content = (tmp_path / "c").read_bytes()
    passed_over = 0
    places = random.Random(0).sample(range(len(content)), 12)
    for place in places:
        caplog.clear()
        (tmp_path / "c").write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        assert what_lasts(train_pack(pack, dataset, CPU, tmp_path / "c")) == whole, place
        passed_over += "is passed over, and its pack starts anew" in caplog.text
    assert passed_over == len(places)


@pytest.mark.parametrize("header", [2**63, 2**62, 10**9, 200_000_000])
def test_a_huge_header_is_passed_over(header, tmp_path):
    dataset, pack = toy_dataset(), pack_of(values_of(epochs=2))
    whole = what_lasts(train_pack(pack, dataset, CPU))
    (tmp_path / "c").write_bytes(struct.pack("<Q", header) + b"{" * 1000)
    assert what_lasts(train_pack(pack, dataset, CPU, tmp_path / "c")) == whole


def test_a_pipe_or_a_folder_as_a_checkpoint_never_hangs(tmp_path):
    dataset, pack = toy_dataset(), pack_of(values_of(epochs=2))
    whole = what_lasts(train_pack(pack, dataset, CPU))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        assert what_lasts(train_pack(pack, dataset, CPU, tmp_path / name)) == whole


@pytest.mark.parametrize(
    "position",
    ["[]", "[" * 5000, '{"epoch": "x"}', '{"epoch": 1e999}', '{"epoch": 1}', "not JSON", None],
)
def test_a_forged_checkpoint_with_a_right_digest_is_passed_over(position, tmp_path):
    from safetensors.torch import save_file

    from allelse.engine import checkpoint

    dataset, pack = toy_dataset(), pack_of(values_of(epochs=2))
    whole = what_lasts(train_pack(pack, dataset, CPU))
    train_until(2, pack, dataset, tmp_path / "c")
    with safe_open(tmp_path / "c", framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del metadata["digest"]
    if position is None:
        tensors["optimizer/9/x"] = torch.zeros(1)
    else:
        metadata["position"] = position
    digest = checkpoint._digest(tensors, metadata)
    save_file(tensors, tmp_path / "c", metadata={**metadata, "digest": digest})
    assert what_lasts(train_pack(pack, dataset, CPU, tmp_path / "c")) == whole
