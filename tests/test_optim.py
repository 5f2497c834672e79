"""Learning rates and weight decay, against torch's own schedulers and optimisers."""

from __future__ import annotations

import inspect
import math
import re

import pytest
import torch
from engine_support import model_of, network_of
from plain_networks import load_replica, packed_name, plain_network, plain_optimizer
from pydantic import TypeAdapter, ValidationError

from allelse import recipe
from allelse.engine import optim
from allelse.engine.optim import OPTIMIZERS, build_optimizer, learning_rates

PEAK = 0.3
lr_scheduler = torch.optim.lr_scheduler


def schedule_of(**values) -> recipe.Schedule:
    return TypeAdapter(recipe.Schedule).validate_python(values)


def rates_of_torch(make, steps: int) -> list[float]:
    """The learning rate that each of ``steps`` optimiser steps is made with."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = make(optimizer)
    rates = []
    for step in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step + 1 < steps:
            scheduler.step()
    return rates


def close(rates):
    return pytest.approx(rates, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(("epochs", "steps"), [(1, 1), (1, 7), (5, 4), (30, 3)])
@pytest.mark.parametrize("floor", [0.0, 0.1, 1.0])
def test_cosine_is_that_of_torch_by_step(epochs, steps, floor):
    total = epochs * steps
    ours = learning_rates(schedule_of(name="cosine", floor=floor), PEAK, epochs, steps)
    assert ours == close(rates_of_torch(lambda o: lr_scheduler.CosineAnnealingLR(o, total, eta_min=floor * PEAK), total))


@pytest.mark.parametrize("floor", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("epochs", [1, 8])
def test_cosine_by_epoch_is_that_of_torch_stepped_once_an_epoch(epochs, floor):
    ours = learning_rates(schedule_of(name="cosine", floor=floor, per="epoch"), PEAK, epochs, 5)
    theirs = rates_of_torch(lambda o: lr_scheduler.CosineAnnealingLR(o, epochs, eta_min=floor * PEAK), epochs)
    assert ours == close([rate for rate in theirs for _ in range(5)])


@pytest.mark.parametrize("per", ["step", "epoch"])
@pytest.mark.parametrize("floor", [0.0, 0.25])
def test_linear_is_that_of_torch(floor, per):
    total, repeat = (40, 1) if per == "step" else (8, 5)
    ours = learning_rates(schedule_of(name="linear", floor=floor, per=per), PEAK, 8, 5)
    theirs = rates_of_torch(lambda o: lr_scheduler.LinearLR(o, 1.0, floor, total), total)
    assert ours == close([rate for rate in theirs for _ in range(repeat)])


@pytest.mark.parametrize("per", ["step", "epoch"])
@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_polynomial_is_that_of_torch(power, per):
    total, repeat = (40, 1) if per == "step" else (8, 5)
    ours = learning_rates(schedule_of(name="polynomial", power=power, per=per), PEAK, 8, 5)
    theirs = rates_of_torch(lambda o: lr_scheduler.PolynomialLR(o, total, power), total)
    assert ours == close([rate for rate in theirs for _ in range(repeat)])
    floored = learning_rates(schedule_of(name="polynomial", power=power, per=per, floor=0.2), PEAK, 8, 5)
    assert floored == close([0.2 * PEAK + 0.8 * rate for rate in ours])


def test_exponential_is_that_of_torch():
    theirs = rates_of_torch(lambda o: lr_scheduler.ExponentialLR(o, 0.9), 8)
    assert learning_rates(schedule_of(name="exponential", factor=0.9), PEAK, 8, 5) == close(
        [r for r in theirs for _ in range(5)]
    )
    by_step = learning_rates(schedule_of(name="exponential", factor=0.9, per="step"), PEAK, 8, 5)
    assert by_step == close(rates_of_torch(lambda o: lr_scheduler.ExponentialLR(o, 0.9**0.2), 40))


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_by_epoch_a_warm_up_takes_its_epochs_from_the_schedule(name):
    ours = learning_rates(schedule_of(name=name, per="epoch", warmup_epochs=2), PEAK, 8, 5)
    assert ours[10:] == close(learning_rates(schedule_of(name=name, per="epoch"), PEAK, 6, 5))
    half = learning_rates(schedule_of(name=name, per="epoch", warmup_epochs=0.4), PEAK, 3, 5)
    assert half[2:5] == close([PEAK] * 3)
    assert len(set(half[5:10])) == len(set(half[10:])) == 1
    assert PEAK > half[5] > half[10] > 0


def test_steps_at_milestones_are_those_of_torch():
    ours = learning_rates(schedule_of(name="step", milestones=[2, 3, 6], factor=0.2), PEAK, 8, 5)
    theirs = rates_of_torch(lambda o: lr_scheduler.MultiStepLR(o, [2, 3, 6], gamma=0.2), 8)
    assert ours[::5] == close(theirs)
    assert ours == [rate for rate in ours[::5] for _ in range(5)]


def test_steps_every_few_epochs_are_those_of_torch():
    ours = learning_rates(schedule_of(name="step", every=3, factor=0.5), PEAK, 8, 5)
    theirs = rates_of_torch(lambda o: lr_scheduler.StepLR(o, 3, gamma=0.5), 8)
    assert ours == close([rate for rate in theirs for _ in range(5)])


@pytest.mark.parametrize("rise", [0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("total", [2, 3, 4, 7, 40])
def test_one_cycle_is_that_of_torch(rise, total):
    if rise * total == 1:
        pytest.skip("torch divides by zero here")
    schedule = schedule_of(name="one-cycle", rise=rise, start_divisor=10, final_divisor=1000)

    def make(optimizer):
        return lr_scheduler.OneCycleLR(
            optimizer, PEAK, total, pct_start=rise, div_factor=10, final_div_factor=1000, cycle_momentum=False
        )

    assert learning_rates(schedule, PEAK, 1, total) == close(rates_of_torch(make, total))


def test_one_cycle_that_rises_within_one_step_starts_at_the_peak():
    rates = learning_rates(schedule_of(name="one-cycle", rise=0.5), PEAK, 1, 2)
    assert rates == close([PEAK, PEAK / 25 / 1e4])


@pytest.mark.parametrize("schedule", [{"name": "constant"}, {"name": "cosine"}, {"name": "step", "milestones": [3]}])
@pytest.mark.parametrize(("warmup", "steps"), [(1, 4), (0.5, 4), (2, 3)])
def test_warm_up_rises_in_a_line_to_the_peak_and_then_the_schedule_begins(schedule, warmup, steps):
    rise = round(warmup * steps)
    ours = learning_rates(schedule_of(warmup_epochs=warmup, **schedule), PEAK, 4, steps)
    theirs = rates_of_torch(lambda o: lr_scheduler.LinearLR(o, 1 / (rise + 1), 1.0, rise), rise + 1)
    assert ours[:rise] == close(theirs[:rise])
    assert theirs[rise] == close(PEAK)
    rest = 4 * steps - rise
    if schedule["name"] == "cosine":
        assert ours[rise:] == close(rates_of_torch(lambda o: lr_scheduler.CosineAnnealingLR(o, rest), rest))
    else:
        drop = 3 * steps if schedule["name"] == "step" else 4 * steps
        assert ours[rise:] == close([PEAK] * (drop - rise) + [0.1 * PEAK] * (4 * steps - drop))


def test_a_warm_up_longer_than_the_training_only_rises():
    rates = learning_rates(schedule_of(name="cosine", warmup_epochs=9), PEAK, 2, 3)
    assert rates == sorted(rates)
    assert len(rates) == 6
    assert 0 < rates[0] < rates[-1] < PEAK


@pytest.mark.parametrize(("rule", "at_32", "at_512"), [("constant", 0.4, 0.4), ("linear", 0.1, 1.6), ("sqrt", 0.2, 0.8)])
def test_the_learning_rate_follows_the_batch_size_by_the_declared_rule(rule, at_32, at_512):
    optimizer = recipe.SGD(lr=0.4, lr_scaling=rule, lr_batch_size=128)
    assert math.isclose(optimizer.scaled_lr(32), at_32)
    assert optimizer.scaled_lr(128) == 0.4
    assert math.isclose(optimizer.scaled_lr(512), at_512)


OF_TORCH = {kind.__name__.lower(): kind for kind in vars(torch.optim).values() if isinstance(kind, type)}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimiser_has_the_names_and_defaults_of_torch(name):
    ours = TypeAdapter(recipe.Optimizer).validate_python({"name": name, "lr": 0.1}).model_dump()
    theirs = {key: parameter.default for key, parameter in inspect.signature(OF_TORCH[name]).parameters.items()}
    of_machine = {"params", "lr", "foreach", "fused", "capturable", "differentiable", "maximize"}
    of_adam = {"decoupled_weight_decay"} if name == "adam" else set()  # AdamW is Adam with it
    own = {"name", "lr", "lr_scaling", "lr_batch_size", "decay_norm_and_bias"}
    assert {key: value for key, value in ours.items() if key not in own} == {
        key: value for key, value in theirs.items() if key not in of_machine | of_adam
    }
    if name != "sgd":
        assert TypeAdapter(recipe.Optimizer).validate_python(name).lr == theirs["lr"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimiser_is_that_of_torch(name):
    optimizer = TypeAdapter(recipe.Optimizer).validate_python({"name": name, "lr": 0.1})
    assert type(build_optimizer(network_of(model_of()), optimizer, 0.1)) is OF_TORCH[name]


@pytest.mark.parametrize("name", ["muon", "Muon", "lbfgs", "LBFGS", "adafactor", "sparse_adam", {"name": "muon", "lr": 0.1}])
def test_optimisers_that_would_mix_replicas_are_refused_with_the_reason(name):
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(recipe.Optimizer).validate_python(name)
    [error] = caught.value.errors()
    assert re.search("mix the networks of a pack|sparse gradients", error["msg"])
    assert error["msg"].endswith("allowed: sgd, adam, adamw, nadam, radam, adamax, rmsprop, adagrad, adadelta, asgd, rprop")


MODELS = {
    "convnet": {"norm": "batch", "activation": "prelu", "stem": {"width": 4, "norm": True}},
    "group norm": {"norm": {"name": "group", "groups": 2}, "block": "conv-act-norm", "activation": "prelu"},
    "mlp": {"family": "mlp", "block": "linear-norm-act", "norm": "layer", "activation": "prelu"},
}


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("decay_all", [True, False])
@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "rprop"])
def test_weight_decay_reaches_the_parameters_that_it_should(name, decay_all, model, replicas):
    values = {"name": name, "lr": 0.1, "weight_decay": 0.5, "decay_norm_and_bias": decay_all}
    optimizer = TypeAdapter(recipe.Optimizer).validate_python(values)
    network = network_of(model_of(**MODELS[model]), range(replicas))
    plain = load_replica(plain_network(model_of(**MODELS[model])), network, replicas - 1)
    generator = torch.Generator().manual_seed(0)
    pairs = {packed_name(n): p for n, p in plain.named_parameters()}
    for full_name, parameter in network.named_parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        pairs[full_name].grad = parameter.grad[replicas - 1].clone()
    build_optimizer(network, optimizer, 0.1).step()
    plain_optimizer(plain, optimizer, 0.1).step()
    for full_name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter[replicas - 1], pairs[full_name], rtol=1e-12, atol=1e-14, msg=full_name)


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("model", MODELS)
def test_without_a_gradient_only_conv_linear_and_head_weights_shrink(model, replicas):
    network = network_of(model_of(**MODELS[model]), range(replicas))
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    optimizer = build_optimizer(network, recipe.SGD(lr=0.1, weight_decay=0.5, decay_norm_and_bias=False), 0.1)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in network.named_parameters():
        is_matrix = name.endswith(("conv.weight", "linear.weight", "head.weight"))
        torch.testing.assert_close(parameter, before[name] * (0.95 if is_matrix else 1.0), rtol=1e-12, atol=0, msg=name)


@pytest.mark.parametrize("where", ["__init__", "step"])
def test_an_optimiser_that_is_fused_on_cpus_only_is_built_without_and_not_recorded(where, monkeypatch):
    """As torch 2.11 has it of Adagrad on a GPU, which refuses in its first step."""

    class OnlyOnCPUs(torch.optim.Adagrad):
        def __init__(self, parameters, lr, fused=None, **options):
            self.refuse(fused, "__init__")
            super().__init__(parameters, lr, **options, fused=fused)

        def step(self, closure=None):
            self.refuse(self.defaults["fused"], "step")
            return super().step(closure)

        def refuse(self, fused, here):
            if fused and here == where:
                raise RuntimeError("`fused=True` requires all the params to be of supported devices: cpu")

    network = network_of(model_of())
    fused = optim.build_optimizer(network, recipe.Adagrad(name="adagrad"), 0.1)
    assert optim.counts_on_its_device(fused)
    monkeypatch.setitem(optim.OPTIMIZERS, "adagrad", OnlyOnCPUs)
    unfused = optim.build_optimizer(network, recipe.Adagrad(name="adagrad"), 0.1)
    assert isinstance(unfused, OnlyOnCPUs)
    assert not optim.counts_on_its_device(unfused)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    unfused.step()
