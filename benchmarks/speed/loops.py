"""The other ways, in plain torch and without allelse: a job in, a loop that takes timed turns out.

All train the same network with the same loss and Adam, and count loss and right answers as any loop does.
Dimensions: R = replicas, B = images in a batch, C = channels, H, W = height and width, K = classes.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.speed.feed import Feed, Images
from benchmarks.speed.grid import CLASSES, Job
from benchmarks.speed.networks import ConvNet, Heads, network_of_layers

LEARNING_RATE = 1e-3
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


class Loop:
    """What all have in common: ``step`` trains ``images_a_step`` images."""

    frees_memory = False

    def __init__(self, job: Job, images_a_step: int) -> None:
        self.job = job
        self.images_a_step = images_a_step
        self.device = torch.device(job.device)
        self.seconds_a_step = 0.0

    def step(self) -> None:
        raise NotImplementedError

    def warm_up(self) -> None:
        self.step()

    def start(self) -> dict[str, Any]:
        """Everything that has to be done once."""
        first = self._timed(1, self.warm_up)
        self.seconds_a_step = self._timed(1, self.step)
        steps = round(0.05 / self.seconds_a_step)
        if steps > 1:
            self.seconds_a_step = self._timed(steps, self.step) / steps
        return {"start_s": max(first - self.seconds_a_step, 0.0), "seconds_a_step": self.seconds_a_step, **self.facts()}

    def facts(self) -> dict[str, Any]:
        return {}

    def turn(self, seconds: float) -> dict[str, float]:
        """Images a second over about so many seconds and at least one step."""
        if self.device.type == "cuda":
            self.step()  # the memory that was freed after the last turn comes back
        steps = max(1, round(seconds / self.seconds_a_step))
        taken = self._timed(steps, self.step)
        self.seconds_a_step = taken / steps
        return {"rate": self.images_a_step * steps / taken}

    def _timed(self, steps: int, step: Callable[[], None]) -> float:
        self._wait()
        begun = time.perf_counter()
        for _ in range(steps):
            step()
        self._wait()
        return time.perf_counter() - begun

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class Plain(Loop):
    """DataLoader, eager, fp32, one network after another."""

    def __init__(self, job: Job) -> None:
        super().__init__(job, job.cell.batch)
        self.network = network_of_layers(job.cell, 1, nn.Linear(job.cell.width, CLASSES)).to(self.device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=LEARNING_RATE)
        self.batches = self._endless()
        self.loss, self.right = 0.0, 0

    def _endless(self) -> Iterator[tuple[Tensor, Tensor]]:
        on_gpu = self.device.type == "cuda"
        loader = DataLoader(
            Images(self.job),
            self.job.cell.batch,
            shuffle=True,
            drop_last=True,
            num_workers=2 if on_gpu else 0,
            pin_memory=on_gpu,
            persistent_workers=on_gpu,
        )
        while True:
            yield from loader

    def step(self) -> None:
        x, labels = next(self.batches)
        x, labels = x.to(self.device), labels.to(self.device)
        self.optimizer.zero_grad()
        logits = self.network(x)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        self.optimizer.step()
        self.loss += loss.item()
        self.right += int((logits.argmax(1) == labels).sum())


class OnDevice(Loop):
    """Batches from a ``Feed``, loss and right answers summed on the device."""

    def __init__(self, job: Job, replicas: int, dtype: torch.dtype) -> None:
        super().__init__(job, replicas * job.cell.batch)
        self.replicas = replicas
        self.feed = Feed(job, replicas, dtype)
        self.loss_R = torch.zeros(replicas, device=self.device)
        self.right_R = torch.zeros(replicas, dtype=torch.int64, device=self.device)

    def step(self) -> None:
        self.feed.before_step()
        self.compute()

    def compute(self) -> None:
        """Gather, forward, backward, update: all that a graph can hold."""
        x_RBHWC, labels_RB = self.feed.batches()
        loss_R, logits_RBK = self.train(x_RBHWC, labels_RB)
        self.loss_R += loss_R.detach()
        self.right_R += (logits_RBK.detach().argmax(2) == labels_RB).sum(1)

    def train(self, x_RBHWC: Tensor, labels_RB: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


class Serial(OnDevice):
    """One network after another as fast as plain torch has it: bf16, channels_last, fused Adam; a whole-step graph on CUDA."""

    def __init__(self, job: Job) -> None:
        super().__init__(job, 1, DTYPES[job.precision])
        self.network = ConvNet(job.cell, DTYPES[job.precision])
        self.network.to(self.device, memory_format=torch.channels_last)
        on_gpu = self.device.type == "cuda"
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=LEARNING_RATE, fused=True, capturable=on_gpu)
        self.graph: torch.cuda.CUDAGraph | None = None
        torch.backends.cudnn.benchmark = True

    def train(self, x_RBHWC: Tensor, labels_RB: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.network(x_RBHWC[0].permute(0, 3, 1, 2))
        loss = F.cross_entropy(logits, labels_RB[0])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss[None], logits[None]

    def warm_up(self) -> None:
        if self.device.type != "cuda":
            self.step()
            return
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.step()
        torch.cuda.current_stream(self.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.compute()
        self.graph = graph

    def step(self) -> None:
        self.feed.before_step()
        if self.graph:
            self.graph.replay()
        else:
            self.compute()

    def facts(self) -> dict[str, Any]:
        self.feed.before_step()
        return {"memory": self.network.look_at_memory(self.feed.batches()[0][0].permute(0, 3, 1, 2))}


class Vmap(OnDevice):
    """``torch.func.vmap`` of one network's gradient over stacked parameters; eager."""

    frees_memory = True

    def __init__(self, job: Job) -> None:
        dtype = DTYPES[job.precision]
        super().__init__(job, job.cell.replicas, dtype)
        networks = [ConvNet(job.cell, dtype, stacked=True) for _ in range(self.replicas)]
        stacked, _ = torch.func.stack_module_state(networks)
        self.parameters = {name: values.detach().to(self.device).requires_grad_() for name, values in stacked.items()}
        self.optimizer = torch.optim.Adam(self.parameters.values(), lr=LEARNING_RATE, fused=True)
        skeleton = copy.deepcopy(networks[0]).to("meta")

        def loss_of(parameters: dict[str, Tensor], x_BCHW: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
            logits_BK = torch.func.functional_call(skeleton, parameters, (x_BCHW,))
            return F.cross_entropy(logits_BK, labels_B), logits_BK

        self.gradients_of = torch.func.vmap(torch.func.grad_and_value(loss_of, has_aux=True))

    def train(self, x_RBHWC: Tensor, labels_RB: Tensor) -> tuple[Tensor, Tensor]:
        values = {name: parameter.detach() for name, parameter in self.parameters.items()}
        gradients, (loss_R, logits_RBK) = self.gradients_of(values, x_RBHWC.permute(0, 1, 4, 2, 3), labels_RB)
        for name, parameter in self.parameters.items():
            parameter.grad = gradients[name]
        self.optimizer.step()
        return loss_R, logits_RBK


class Grouped(OnDevice):
    """All networks side by side in convolutions with a group each, as HFTA has them; fp32, NCHW, eager."""

    frees_memory = True

    def __init__(self, job: Job) -> None:
        super().__init__(job, job.cell.replicas, torch.float32)
        heads = Heads(self.replicas, job.cell.width)
        self.network = network_of_layers(job.cell, self.replicas, heads).to(self.device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=LEARNING_RATE)

    def train(self, x_RBHWC: Tensor, labels_RB: Tensor) -> tuple[Tensor, Tensor]:
        x_NCHW = x_RBHWC.permute(1, 0, 4, 2, 3).flatten(1, 2).contiguous()
        logits_RBK = self.network(x_NCHW)
        loss_R = F.cross_entropy(logits_RBK.transpose(1, 2), labels_RB, reduction="none").mean(1)
        self.optimizer.zero_grad()
        loss_R.sum().backward()
        self.optimizer.step()
        return loss_R, logits_RBK


# ── the rates of the floor ──────────────────────────────────────────────────────────────────────────────────────────


class DeviceRates(Loop):
    """What the device does when it does one thing: large matrix products, and copies. A step is one of each."""

    frees_memory = True

    def __init__(self, job: Job) -> None:
        super().__init__(job, 0)
        on_gpu = self.device.type == "cuda"
        self.side = 4096 if on_gpu else 2048
        dtype = DTYPES[job.precision]
        self.a, self.b = (torch.randn(self.side, self.side, device=self.device).to(dtype) for _ in range(2))
        self.product = torch.empty_like(self.a)
        self.source = torch.ones(2**30 if on_gpu else 2**28, dtype=torch.uint8, device=self.device)
        self.target = torch.zeros_like(self.source)

    def step(self) -> None:
        torch.mm(self.a, self.b, out=self.product)
        self.target.copy_(self.source)

    def turn(self, seconds: float) -> dict[str, float]:
        """FLOP and bytes (read and written) a second, the medians of what fits in so many seconds."""
        product = self._several(seconds / 2, lambda: torch.mm(self.a, self.b, out=self.product))
        copied = self._several(seconds / 2, lambda: self.target.copy_(self.source))
        return {"matrix": 2 * self.side**3 / product, "copy": 2 * len(self.source) / copied}

    def _several(self, seconds: float, step: Callable[[], Any]) -> float:
        at_once = 10 if self.device.type == "cuda" else 1  # one alone would be measured with its launch
        taken: list[float] = []
        while at_once * sum(taken) < seconds or len(taken) < 3:
            taken.append(self._timed(at_once, step) / at_once)
        return statistics.median(taken)


LOOPS: dict[str, Callable[[Job], Loop]] = {
    "plain": Plain,
    "serial": Serial,
    "vmap": Vmap,
    "grouped": Grouped,
    "rates": DeviceRates,
}
