"""Probes against numpy and against what training itself did to the weights, replica by replica."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from engine_support import CPU, SEEDS, model_of, network_of, pack_of, tiny_recipe, toy_dataset, trained

from allelse.engine import loop, train_pack
from allelse.engine.loop import Training
from allelse.engine.probes import Probe, participation_ratio

LR = 0.5


def ratio_of(x_MC: np.ndarray) -> float:
    """(Σλ)² / Σλ² of the eigenvalues of the covariance."""
    eigenvalues = np.linalg.eigvalsh(np.cov(x_MC, rowvar=False))
    return eigenvalues.sum() ** 2 / (eigenvalues**2).sum()


@pytest.mark.parametrize(("images", "side", "close"), [(4, 6, 1e-5), (128, 32, 0.02), (40, 16, 0.02), (256, 28, 0.02)])
def test_the_participation_ratio_sees_all_columns_of_the_images(images, side, close):
    rng = np.random.default_rng(images)
    x = rng.standard_normal((2, images, 5, side, side))
    x[:, :, 1:] *= np.linspace(0.1, 3, side)  # four channels are alive towards the right
    found = participation_ratio(torch.from_numpy(x).flatten(3))
    for replica in range(2):
        assert found[replica].item() == pytest.approx(ratio_of(np.moveaxis(x[replica], 1, -1).reshape(-1, 5)), rel=close)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.1, 0.5, 3.3, 1e-6, 1e6])
def test_what_is_the_same_everywhere_has_no_rank_whatever_rounding_leaves_of_it(value, dtype):
    alike = torch.full((1, 77, 5, 9), value, dtype=dtype)
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal(alike.shape)).to(dtype)
    assert participation_ratio(alike).tolist() == [0.0]
    assert participation_ratio(alike + 1e-4 * value * noise)[0].item() == pytest.approx(5, rel=0.1)


class Clipping(torch.optim.SGD):
    """Makes the gradients a thousand times smaller, in place, before it takes its step."""

    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad /= 1000
        super().step()


@pytest.mark.parametrize(("optimizer", "shrunk"), [(torch.optim.SGD, 1), (Clipping, 1000)])
def test_gradients_and_weights_are_those_before_the_step(monkeypatch, optimizer, shrunk):
    monkeypatch.setattr(loop, "build_optimizer", lambda network, part, lr: optimizer(network.parameters(), lr))
    values = tiny_recipe(epochs=1, batch_size=24, optimizer={"name": "sgd", "lr": LR})
    training = Training(pack_of(values), toy_dataset(train=24), CPU)
    before = {name: values.clone() for name, values in training.network.named_parameters()}
    training.run_epoch(lambda progress: None)
    for replica in range(len(SEEDS)):
        rows = {row["layer"]: row for row in training.probe.rows[replica] if "gradient_norm" in row}
        assert {"blocks.0.conv", "blocks.1.conv", "head"} <= set(rows)
        for layer, row in rows.items():
            old = before[f"{layer}.weight"][replica]
            taken = (old - training.network.get_parameter(f"{layer}.weight")[replica]).norm().item() / LR * shrunk
            assert row["gradient_norm"] == pytest.approx(taken, rel=1e-9)
            assert row["weight_norm"] == pytest.approx(old.norm().item(), rel=1e-12)
            assert row["gradient_ratio"] == pytest.approx(taken / old.norm().item(), rel=1e-9)


def test_distances_are_in_what_a_norm_divides_by_also_where_a_channel_is_constant():
    network = network_of(model_of(depth=1, stem=None), (3, 1))
    eps = network.blocks[0].norm.eps
    rng = np.random.default_rng(1)
    mean, true_mean, noise = rng.standard_normal((3, 2, 4))
    variance, true_variance = rng.uniform(0.5, 2, (2, 2, 4))
    variance[:, 2] = true_variance[:, 2] = 0.0
    mean[:, 2] = true_mean[:, 2] + 1e-6
    tensors = [torch.from_numpy(values) for values in (mean, variance, true_mean, true_variance, np.abs(noise))]
    probe = Probe(network)
    probe.add_statistics({"step": 1, "epoch": 1}, [tuple(tensors[:2])], [tuple(tensors[2:4])], tensors[4:])
    sd = np.sqrt(true_variance + eps)
    for replica, [row] in enumerate(probe.rows):
        assert row["mean_distance"] == pytest.approx((np.abs(mean - true_mean) / sd)[replica].mean())
        assert row["variance_distance"] == pytest.approx(np.abs(np.log((variance + eps) / sd**2))[replica].mean())
        assert row["batch_noise"] == pytest.approx((np.abs(noise) / sd)[replica].mean())
        assert row["mean_distance"] < 5


def test_the_noise_of_batches_is_that_of_whole_ones_and_is_not_known_of_one():
    training = trained(pack_of(tiny_recipe(batch_size=10)), toy_dataset(train=27), 1)
    assert [len(x) for x in training.training_images(10, 8)] == [10, 10]
    assert sum(len(x) for x in training.training_images()) == 27
    for batch_size, known in ((10, True), (20, False)):
        for result in train_pack(pack_of(tiny_recipe(batch_size=batch_size)), toy_dataset(train=27), CPU):
            assert ("batch_noise" in result.metrics) == known
            assert result.status == "done"
            assert "mean_distance" in result.metrics
