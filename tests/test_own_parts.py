"""Parts of the user's own: packed as lone modules of torch are, or refused with the reason; imported only where they run."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import parts_of_users
import plain_networks
import pytest
import torch
from engine_support import CPU, SEEDS, model_of, network_of, pack_of, tiny_recipe, toy_dataset, trained
from plain_networks import assert_same_state, epoch_batches, plain_network, train_plain
from torch import nn

from allelse import own, recipe
from allelse.blocks.exactness import packing_of
from allelse.blocks.own import Maker
from allelse.engine import loop, optimizer_packing, train_pack
from allelse.engine.loop import Training
from allelse.errors import PartError
from allelse.models import build_network, initialise, layer_rows, own_parts, stacked_parameters
from allelse.records import Pack, RunSpec, Way

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
own.search(EXAMPLES)

from own_parts import activations, norms, optimizers  # noqa: E402

USERS = "python:parts_of_users:"
SERF, SWISH, MEAN_ONLY, LION = (
    f"python:own_parts.{name}"
    for name in ("activations:Serf", "activations:Swish", "norms:MeanOnlyBatchNorm", "optimizers:Lion")
)


def part(name: str, kind: type[recipe.OwnPart] = recipe.OwnPart, **arguments: object) -> recipe.OwnPart:
    return kind.model_validate({"name": name, **arguments})


# ── exact: the pack against the user's own class, alone ─────────────────────────────────────────────────────────────


def lone_part(named: recipe.OwnPart, *sizes: int) -> nn.Module:
    kind = {
        SERF: activations.Serf,
        SWISH: partial(activations.Swish, *sizes),
        MEAN_ONLY: partial(norms.MeanOnlyBatchNorm, *sizes),
        "python:torch.nn:BatchNorm2d": partial(nn.BatchNorm2d, *sizes),
        f"{USERS}Drawn": partial(parts_of_users.Drawn, *sizes),
        f"{USERS}Softmax": parts_of_users.Softmax,
    }[named.name]
    return kind(**(named.model_extra or {}))


class PlainBlocks(nn.Module):
    """Blocks of the user's own and a linear head, as one would write them."""

    def __init__(self, blocks: list[nn.Module], features: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleDict({"own": block}) for block in blocks)
        self.head = nn.Linear(features, 3)

    def forward(self, x):
        for block in self.blocks:
            x = block["own"](x)
        return self.head(x.mean((2, 3)) if x.dim() == 4 else x)


class PlainDense(PlainBlocks):
    def forward(self, x):
        return super().forward(x.flatten(1))


class PlainNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = parts_of_users.Net((6, 6, 2), 3, width=4)

    def forward(self, x):
        return self.net(x)


def plain_of(model: recipe.Model) -> nn.Module:
    if isinstance(model, recipe.OwnModel):
        return PlainNet().double()
    if isinstance(model.block, str):
        return plain_network(model)
    if model.family == "mlp":
        return PlainDense([parts_of_users.Dense(72, 5), parts_of_users.Dense(5, 5)], 5).double()
    return PlainBlocks([parts_of_users.Bottleneck(2, 4, 2), parts_of_users.Bottleneck(4, 4, 2)], 4).double()


MODELS = {
    "element by element": {"activation": SERF, "norm": "none"},
    "declared": {"activation": {"name": SWISH, "start": 0.5}, "norm": "group", "stem": {"width": 4, "activation": True}},
    "declared, after the head's layers": {
        "activation": SWISH,
        "norm": {"name": "group", "groups": 2},
        "head": {"name": "flatten", "hidden": [3]},
    },
    "drawn, with buffers": {"activation": f"{USERS}Drawn", "norm": "none"},
    "over the channels": {"activation": f"{USERS}Softmax", "norm": "none"},
    "norm": {"norm": {"name": MEAN_ONLY, "momentum": 0.3}, "activation": "tanh", "bias": False},
    "torch's norm": {"norm": {"name": "python:torch.nn:BatchNorm2d", "momentum": 0.2}, "bias": False, "pool": [1]},
    "mlp": {"family": "mlp", "block": "linear-norm-act", "norm": MEAN_ONLY, "activation": SWISH, "bias": False},
    "block": {"block": {"name": f"{USERS}Bottleneck", "stride": 2}},
    "mlp block": {"family": "mlp", "block": f"{USERS}Dense", "width": 5},
}
MODELS["declared"]["norm"] = {"name": "group", "groups": 2}


@pytest.mark.parametrize(
    ("model", "optimizer"),
    [
        *[(name, {"name": "sgd", "lr": 0.05, "momentum": 0.9}) for name in [*MODELS, "whole network"]],
        ("drawn, with buffers", {"name": LION, "lr": 0.01, "betas": [0.8, 0.9], "weight_decay": 0.1}),
        ("block", {"name": f"{USERS}NormalisedSGD", "lr": 0.05}),
        ("norm", {"name": f"{USERS}NormalisedSGD", "lr": 0.05}),
    ],
)
def test_whole_trainings_equal_the_users_own_classes_alone(model, optimizer, monkeypatch):
    for name in ("plain_norm", "plain_activation"):
        ours = getattr(plain_networks, name)
        monkeypatch.setattr(
            plain_networks,
            name,
            lambda named, *sizes, ours=ours: (
                lone_part(named, *sizes[:1]) if isinstance(named, recipe.OwnPart) else ours(named, *sizes)
            ),
        )
    dataset = toy_dataset()
    values = tiny_recipe(optimizer=optimizer, model=MODELS.get(model, {}))
    if model == "whole network":
        values["model"] = {"family": f"{USERS}Net", "width": 4}
    training = Training(pack_of(values), dataset, CPU)
    plains = [plain_of(training.recipe.model) for _ in SEEDS]
    made_by = {LION: optimizers.Lion, f"{USERS}NormalisedSGD": parts_of_users.NormalisedSGD}
    for replica, plain in enumerate(plains):
        state = training.network.state_dict()
        with torch.no_grad():
            for name, tensor in plain.state_dict().items():
                tensor.copy_(state[name][replica])
        arguments = {key: value for key, value in optimizer.items() if key != "name"}
        plain.optimizer = made_by.get(optimizer["name"], torch.optim.SGD)(plain.parameters(), **arguments)
    for epoch in range(2):
        training.run_epoch(lambda progress: None)
        for replica, (seed, plain) in enumerate(zip(SEEDS, plains, strict=True)):
            train_plain(plain, plain.optimizer, epoch_batches(training.recipe, dataset, seed, epoch))
            assert_same_state(plain, training.network, replica, say=f"epoch {epoch}")
    lone = trained(pack_of(values, SEEDS[2:]), dataset).network.state_dict()
    for name, tensor in training.network.state_dict().items():
        torch.testing.assert_close(tensor[2], lone[name][0], rtol=1e-10, atol=1e-10)


def test_a_disturbed_replica_changes_itself_and_no_other():
    model = model_of(activation=f"{USERS}Drawn", norm=MEAN_ONLY)
    x = torch.randn(5, len(SEEDS), 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    before = network_of(model)(x.flatten(1, 2))
    x[:, 1] *= -2
    changed_by = (network_of(model)(x.flatten(1, 2)) - before).abs().amax((1, 2))
    assert changed_by[1] > 1e-3
    assert changed_by[[0, 2]].max() == 0


@pytest.mark.parametrize("optimizer", [LION, f"{USERS}NormalisedSGD"])
@pytest.mark.parametrize("activation", [SWISH, SERF, f"{USERS}Drawn", f"{USERS}StarReLU"])
def test_branches_train_as_the_pack_does(activation, optimizer):
    model = {"activation": activation, "norm": MEAN_ONLY, "bias": False}
    pack, dataset = pack_of(tiny_recipe(optimizer={"name": optimizer, "lr": 0.01}, model=model)), toy_dataset()
    packed, branched = (trained(given, dataset).network.state_dict() for given in (pack, Pack(pack.runs, Way("branches"))))
    for name, tensor in packed.items():
        torch.testing.assert_close(branched[name], tensor, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("activation", [SWISH, SERF, f"{USERS}Drawn"])
def test_in_bf16_a_part_gives_back_bf16_and_keeps_its_own_numbers_in_float32(activation):
    network = build_network(model_of(activation=activation, norm=MEAN_ONLY), (6, 6, 2), 3, len(SEEDS))
    initialise(network, SEEDS)
    block = network.blocks[1]
    x = torch.randn(5, 4 * len(SEEDS), 6, 6, generator=torch.Generator().manual_seed(1))
    coarse, fine = (block.act(block.norm(given)) for given in (x.bfloat16(), x))
    assert (coarse.dtype, fine.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(coarse.float(), fine, rtol=0.03, atol=0.03)
    assert block.norm.running_mean.dtype == torch.float32


@pytest.mark.parametrize(
    ("named", "packing"),
    [
        (part(SERF), "elementwise"),
        (part("python:torch.nn:Hardtanh", min_val=-0.5), "elementwise"),
        (part(SWISH), "declared"),
        (part("python:torch.nn:PReLU"), "one by one"),
        (part(f"{USERS}Softmax"), "one by one"),
        (part(f"{USERS}Drawn"), "one by one"),
    ],
    ids=lambda given: getattr(given, "name", given),
)
def test_how_a_part_is_packed(named, packing):
    assert packing_of(Maker(named, "activation", (4,)), (4, 4, 5)) == packing


@pytest.mark.parametrize(
    ("name", "packing"),
    [
        (LION, "elementwise"),
        ("python:torch.optim:Adam", "elementwise"),
        ("python:torch.optim:RAdam", "elementwise"),
        (f"{USERS}NormalisedSGD", "one by one"),
        (f"{USERS}LaterNormalisedSGD", "one by one"),
    ],
)
def test_how_an_optimiser_is_packed(name, packing):
    assert optimizer_packing(part(name, recipe.OwnOptimizer, lr=0.1)) == packing


# ── refused, with the reason ────────────────────────────────────────────────────────────────────────────────────────

REASON_FROM_ACTIVATION = {
    "Mixing": "mixes replicas: another replica's images change the output of step 1 by ",
    "WrongPack": "declares 'packed', which differs from lone ones in the output of step 1 by ",
    "OtherNumbers": "declares 'packed', which has weight [3] for 3 replicas; allowed: what a lone one has, with the replicas "
    "first: weight [3, 1]",
    "Noise": "is random: two calls with the same weights and images differ in the output of step 1 by ",
    "MeanOfChannels": "gives [4, 4, 5] for images [4, 4, 4, 5]; allowed: the shape that came in",
    "Heaviside": "has no gradient: ",
    "InPlace": "changes its input in place; allowed: to give a new tensor",
    "Counter": "keeps something from one call to the next that is no parameter or buffer (a pack differs in ",
    "Single": "gives torch.float32 where torch.float64 came in; ",
    "Logarithm": "gives NaN or infinity for ordinary numbers ",
    "Raising": "raises TypeError: unsupported operand type(s) for +: 'Tensor' and 'str'",
    "Quitting": "raises SystemExit: 0",
    "ByNumPy": "draws its weights from elsewhere than torch's global generator; ",
    "Taken": "names a tensor 'replicas', of which torch says ",
    "Wants": "raises TypeError: Wants.__init__() missing 1 required positional argument: 'something'",
    "no_module": "gives a int; allowed: a class or function that gives a torch.nn.Module",
    "NUMBER": "is of type int; allowed: a class, or a function that makes what one would",
}


@pytest.mark.parametrize("name", REASON_FROM_ACTIVATION)
def test_an_activation_that_must_not_be_trusted(name):
    with pytest.raises(PartError) as caught:
        network_of(model_of(activation=f"{USERS}{name}"))
    assert str(caught.value).startswith(f"recipe.model.activation: '{USERS}{name}' {REASON_FROM_ACTIVATION[name]}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"norm": "python:torch.nn:Dropout"}, "recipe.model.norm: 'python:torch.nn:Dropout' raises ValueError: dropout prob"),
        ({"block": f"{USERS}Softmax"}, f"recipe.model.block: '{USERS}Softmax' raises TypeError: "),
        (
            {"block": {"name": f"{USERS}Bottleneck", "stride": 2}, "residual": True},
            f"recipe.model.block: '{USERS}Bottleneck' gives 3 × 3 for 6 × 6, which residual = true cannot add",
        ),
    ],
)
def test_other_parts_that_do_not_fit(model, expected):
    with pytest.raises(PartError, match=re.escape(expected)):
        network_of(model_of(**model))


def test_a_whole_network_with_dropout_of_torch_is_refused():
    values = tiny_recipe()
    values["model"] = {"family": f"{USERS}Net", "dropout": 0.5}
    with pytest.raises(PartError, match=f"recipe.model.family: '{USERS}Net' is random: "):
        Training(pack_of(values), toy_dataset(), CPU)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (f"{USERS}Noisy", "is random: "),
        (f"{USERS}OwnRate", "does not follow 'lr' of its param_groups"),
        (f"{USERS}FirstRate", "does not follow 'lr' of its param_groups"),
        (f"{USERS}Counting", "keeps what a checkpoint does not; "),
        (f"{USERS}NewData", "puts new tensors in the place of the weights; "),
        (f"{USERS}Sets", "keeps what a checkpoint cannot hold (TypeError: Object of type set is not JSON serializable)"),
        (
            "python:torch.optim:LBFGS",
            "raises TypeError: LBFGS.step() missing 1 required positional argument: 'closure' in a step",
        ),
        (SERF, "raises TypeError: "),
    ],
)
def test_an_optimiser_that_must_not_be_trusted(name, reason):
    with pytest.raises(PartError) as caught:
        optimizer_packing(part(name, recipe.OwnOptimizer, lr=0.1))
    assert str(caught.value).startswith(f"recipe.optimizer: {name!r} {reason}")


# ── paired, resumed, probed ─────────────────────────────────────────────────────────────────────────────────────────


def test_weights_that_a_part_draws_belong_to_seed_and_layer_alone():
    def drawn(seeds, **model):
        network = network_of(model_of(activation=f"{USERS}Drawn", **model), seeds)
        return {name: parameter.detach() for name, _, _, parameter in stacked_parameters(network) if "slope" in name}

    first, other = drawn(SEEDS, norm="none"), drawn((11, 3), norm="batch", pool=[1], depth=3)
    assert list(first) == ["blocks.0.act.inner.slope", "blocks.1.act.inner.slope"]
    for name, values in first.items():
        torch.testing.assert_close(values[[2, 0]], other[name], rtol=0, atol=0)
    assert len({tuple(row.tolist()) for values in first.values() for row in values}) == 2 * len(SEEDS)


def test_torchs_global_generator_is_left_as_it_was():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    initialise(network_of(model_of(activation=f"{USERS}Drawn")), SEEDS)
    assert torch.rand(1) == expected


@pytest.mark.parametrize("way", [Way(), Way("branches")], ids=["together", "branches"])
@pytest.mark.parametrize("rates", [(0.02, 0.02, 0.02), (0.02, 0.01, 0.04)], ids=["one rate", "three rates"])
def test_weights_that_take_no_part_in_a_step_move_in_a_pack_as_they_do_alone(rates, way):
    optimizers = [{"name": "adamw", "lr": rate, "weight_decay": 0.5} for rate in rates]
    model = {"family": f"{USERS}Joining"}
    recipes = [{**tiny_recipe(epochs=5), "optimizer": optimizer, "model": model} for optimizer in optimizers]
    runs = tuple(RunSpec({}, values, seed) for values, seed in zip(recipes, SEEDS, strict=True))
    packed, *alone = (trained(Pack(some, way), toy_dataset()) for some in (runs, *((run,) for run in runs)))
    for replica, lone in enumerate(alone):
        assert lone.network.net.steps.item() > 10
        for name, values in packed.network.named_parameters():
            torch.testing.assert_close(values[replica], lone.network.get_parameter(name)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("optimizer", [LION, f"{USERS}NormalisedSGD"])
def test_killed_and_resumed_equals_never_killed(optimizer, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    model = {"activation": f"{USERS}Drawn", "norm": MEAN_ONLY}
    pack = pack_of(tiny_recipe(epochs=3, precision="fp32", optimizer={"name": optimizer, "lr": 0.01}, model=model))

    class Killed(Exception):
        pass

    def kill(progress):
        if progress.epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        train_pack(pack, toy_dataset(), CPU, tmp_path / "x.safetensors", kill)
    resumed, whole = (train_pack(pack, toy_dataset(), CPU, path) for path in (tmp_path / "x.safetensors", None))
    assert [dict(result.metrics) for result in resumed] == [dict(result.metrics) for result in whole]
    assert [list(result.epochs) for result in resumed] == [list(result.epochs) for result in whole]
    assert resumed[0].metrics["train_loss"] != whole[1].metrics["train_loss"]


def test_probes_take_a_part_as_it_is_and_statistics_that_it_gathers_are_not_said_to_be_measured_anew():
    model = {"activation": f"{USERS}Drawn", "norm": MEAN_ONLY}
    pack, dataset = pack_of(tiny_recipe(model=model)), toy_dataset()
    [result, *_] = train_pack(pack, dataset, CPU)
    assert "accuracy" in result.metrics
    assert not [name for name in result.metrics if re.search("running|recalibrated|batch$|gap", name)]
    rows = [row for row in result.probes if row["layer"] == "blocks.0.act"]
    assert all(0 <= row["saturated"] <= 1 for row in rows)
    assert len(rows) == 2
    state = trained(pack, dataset).network.state_dict()
    assert state["blocks.0.act.seen"].tolist() == [2 * 3 * 8] * len(SEEDS)  # epochs · steps · images: no probe is counted
    assert "init blocks.0.act.inner.slope 4 by python:parts_of_users:Drawn" in result.fingerprints


def test_what_a_part_gathers_in_training_is_told_from_what_it_has():
    parts = own_parts(model_of(activation=f"{USERS}Drawn", norm=MEAN_ONLY), (6, 6, 2), 3)
    assert {part.reference: part.gathered for part in parts} == {MEAN_ONLY: ("running_mean",), f"{USERS}Drawn": ("largest",)}
    [[late]] = {tuple(part.gathered) for part in own_parts(model_of(activation=f"{USERS}Late"), (6, 6, 2), 3)}
    assert late == "largest"
    assert {part.gathered for part in own_parts(model_of(activation=f"{USERS}Lowered"), (6, 6, 2), 3)} == {()}
    [result, *_] = train_pack(pack_of(tiny_recipe(model={"activation": f"{USERS}Lowered"})), toy_dataset(), CPU)
    assert result.metrics["accuracy_running"] == result.metrics["accuracy"], "a constant buffer is none"


def test_anatomy_shows_a_part_as_one_layer():
    rows = {row.name: row for row in layer_rows(model_of(activation=f"{USERS}Drawn", norm=MEAN_ONLY), (6, 6, 2), 3)}
    assert rows["blocks.0.act"].kind == "Own Drawn"
    assert (rows["blocks.0.act"].output_shape, rows["blocks.0.act"].parameters) == ((4, 6, 6), 4)
    rows = {row.name: row for row in layer_rows(model_of(block=f"{USERS}Bottleneck", depth=1), (6, 6, 2), 3)}
    assert rows["blocks.0.own"].parameters == 2 * 2 + 2 * 2 + 2 * 4 * 9
    assert rows["blocks.0.own"].macs == 36 * (2 * 2 + 2 * 4 * 9)
