"""Parts as users write them, good ones and bad ones, for ``test_own_parts.py``: named there as ``python:parts_of_users:…``."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn


class Drawn(nn.Module):
    """An activation whose weights are drawn, with statistics that its training gathers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Module()
        self.inner.slope = nn.Parameter(torch.randn(channels))
        self.frozen = nn.Parameter(torch.rand(()), requires_grad=False)
        self.register_buffer("largest", torch.zeros(()))
        self.register_buffer("seen", torch.tensor(0))

    def forward(self, x):
        if self.training:
            self.largest = torch.maximum(self.largest, x.detach().abs().max())
            self.seen += len(x)
        slope = self.inner.slope.view(-1, *[1] * (x.dim() - 2))
        return torch.tanh(x * slope) + self.frozen * x / (1 + self.largest)


class Lowered(nn.Module):
    """An activation with a buffer that stays as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("below", torch.tensor(0.1))

    def forward(self, x):
        return torch.relu(x) - self.below


class Late(nn.Module):
    """An activation that gathers from its fifth step on."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("largest", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.steps += 1
            if self.steps >= 5:
                self.largest = torch.maximum(self.largest, x.detach().abs().max())
        return torch.tanh(x) / (1 + self.largest)


class StarReLU(nn.Module):
    """Yu et al. 2022 (arXiv:2210.13452): scale · relu(x)² + bias, with numbers that are no vectors."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.8944))
        self.bias = nn.Parameter(torch.tensor(-0.4472))

    def forward(self, x):
        return self.scale * torch.relu(x) ** 2 + self.bias


class Softmax(nn.Module):
    def forward(self, x):
        return x.softmax(1) * x.shape[1]


class Bottleneck(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels_in, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(2)
        self.up = nn.Conv2d(2, channels_out, 3, stride, 1, bias=False)

    def forward(self, x):
        return self.up(torch.tanh(self.norm(self.down(x))))


class Dense(nn.Module):
    def __init__(self, features_in: int, features_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features_in, features_out)

    def forward(self, x):
        return torch.tanh(self.linear(x))


class Net(nn.Module):
    def __init__(self, image_shape: tuple[int, int, int], classes: int, width: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        height, wide, channels = image_shape
        self.body = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.Tanh(), nn.Dropout(dropout), nn.AvgPool2d(2))
        self.head = nn.Linear(width * (height // 2) * (wide // 2), classes)

    def forward(self, x):
        return self.head(self.body(x).flatten(1))


class NormalisedSGD(torch.optim.Optimizer):
    """Steps of the gradient over its norm, weight by weight: not element by element."""

    def __init__(self, params, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    def delta(self, weight):
        return weight.grad / (weight.grad.norm() + 1e-3)

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for weight in group["params"]:
                steps = self.state[weight].setdefault("steps", torch.zeros(()))
                weight.sub_(group["lr"] * self.delta(weight) / (1 + steps))
                steps.add_(1)


class LaterNormalisedSGD(NormalisedSGD):
    """Element by element at first."""

    def delta(self, weight):
        return weight.grad if self.state[weight]["steps"] < 20 else super().delta(weight)


# ── refused ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Mixing(nn.Module):
    def forward(self, x):
        return x - x.mean(1, keepdim=True)

    @classmethod
    def packed(cls, replicas: int, channels: int):
        return cls()


class WrongPack(nn.ReLU):
    @classmethod
    def packed(cls, replicas: int, channels: int):
        return nn.Tanh()


class OtherNumbers(nn.PReLU):
    @classmethod
    def packed(cls, replicas: int, channels: int):
        return nn.PReLU(replicas)


class Noise(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x) if self.training else x


class MeanOfChannels(nn.Module):
    def forward(self, x):
        return x.mean(1)


class Heaviside(nn.Module):
    def forward(self, x):
        return (x > 0).to(x.dtype)


class InPlace(nn.Module):
    def forward(self, x):
        return x.relu_()


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.calls


class Single(nn.Module):
    def forward(self, x):
        return x.float().sigmoid()


class Logarithm(nn.Module):
    def forward(self, x):
        return x.log()


class Raising(nn.Module):
    def forward(self, x):
        return x + "1"


class Quitting(nn.Module):
    def forward(self, x):
        raise SystemExit(0)


class ByNumPy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(np.random.default_rng().random(1)))

    def forward(self, x):
        return x * self.slope


class Taken(nn.PReLU):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("replicas", torch.ones(()))


class Wants(nn.Module):
    def __init__(self, something) -> None:
        super().__init__()


def no_module():
    return 3


NUMBER = 3


class Noisy(NormalisedSGD):
    def delta(self, weight):
        return torch.randn_like(weight)


class OwnRate(NormalisedSGD):
    @torch.no_grad()
    def step(self):
        for weight in self.param_groups[0]["params"]:
            weight.sub_(0.01 * weight.grad)


class FirstRate(NormalisedSGD):
    def __init__(self, params, lr=0.1):
        super().__init__(params, lr)
        self.first_rate = lr

    @torch.no_grad()
    def step(self):
        for weight in self.param_groups[0]["params"]:
            weight.sub_(self.first_rate * weight.grad)


class Counting(NormalisedSGD):
    steps = 0

    def delta(self, weight):
        self.steps += 1
        return weight.grad / self.steps


class NewData(NormalisedSGD):
    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for weight in group["params"]:
                weight.data = weight - group["lr"] * weight.grad


class Sets(NormalisedSGD):
    def delta(self, weight):
        self.state[weight]["seen"] = {1, 2}
        return weight.grad


# ── losses ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Poly:
    """Poly-1 (Leng et al. 2022, arXiv:2204.12511), image by image."""

    def __init__(self, epsilon: float = 1.0) -> None:
        self.epsilon = epsilon

    def __call__(self, outputs, labels):
        losses = nn.functional.cross_entropy(outputs, labels, reduction="none")
        return losses + self.epsilon * (1 - torch.exp(-losses))


class HardestFirst(Poly):
    """What an image counts depends on the others of its batch."""

    def __call__(self, outputs, labels):
        losses = super().__call__(outputs, labels)
        return losses * (losses >= losses.detach().median())


class NoisyLoss(Poly):
    def __call__(self, outputs, labels):
        return super().__call__(outputs + 0.01 * torch.randn_like(outputs), labels)


class Curriculum(Poly):
    """Another loss after a while."""

    calls = 0

    def __call__(self, outputs, labels):
        self.calls += 1
        return super().__call__(outputs, labels) * (1 if self.calls < 20 else 2)


class LearnedTemperature(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))

    def forward(self, outputs, labels):
        return nn.functional.cross_entropy(outputs / self.temperature, labels, reduction="none")


class ZeroOne(Poly):
    def __call__(self, outputs, labels):
        return (outputs.argmax(1) != labels).to(outputs.dtype)


class SingleLoss(Poly):
    def __call__(self, outputs, labels):
        return super().__call__(outputs.float(), labels)


class ShiftsLabels(Poly):
    def __call__(self, outputs, labels):
        losses = super().__call__(outputs, labels)
        labels.zero_()
        return losses


class LogOfOutputs(Poly):
    def __call__(self, outputs, labels):
        return -outputs.log()[:, 0]


class ClassWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.tensor([0.5, 1.0, 1.5]))

    def forward(self, outputs, labels):
        return nn.functional.cross_entropy(outputs, labels, weight=self.weight, reduction="none")


class Scaled(nn.Module):
    """With a weight of no dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        return torch.tanh(self.scale * x)


class Joining(nn.Module):
    """A network with a layer that joins after ten training steps, and one that never does."""

    def __init__(self, image, classes):
        super().__init__()
        size = image[0] * image[1] * image[2]
        self.early, self.late, self.never = nn.Linear(size, classes), nn.Linear(size, classes), nn.Linear(size, classes)
        self.register_buffer("steps", torch.tensor(0))

    def forward(self, x):
        x = x.flatten(1)
        if self.training:
            self.steps += 1
        return self.early(x) + self.late(x) if self.steps > 10 else self.early(x)
