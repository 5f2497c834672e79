"""The other ways, in plain torch and without allelse: a job in, a loop that takes timed turns out.

All train the same network (``ConvNet``) with the same loss and Adam, and count loss and right answers as any loop does.
Dimensions: R = replicas, B = images in a batch, C = channels, H, W = height and width, K = classes.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.speed.grid import CLASSES, GROUPS, Cell
from benchmarks.speed.worker import Job

PADDING = 4
LEARNING_RATE = 1e-3
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def arrays(job: Job) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [n, H, W, C] and labels int64 [n]."""
    images, labels = (np.load(job.folder / f"{job.cell.data}-{what}.npy") for what in ("images", "labels"))
    return images, labels


def memory_of(x: Tensor) -> str:
    """The memory format of [B, C, H, W]."""
    if x.is_contiguous(memory_format=torch.channels_last):
        return "channels_last"
    return "contiguous" if x.is_contiguous() else "strided"


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


# ── as notebooks write it ───────────────────────────────────────────────────────────────────────────────────────────


class Images(Dataset):
    """Images one by one, cropped and mirrored in ``__getitem__``."""

    def __init__(self, job: Job) -> None:
        images, labels = arrays(job)
        self.images = torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255)
        mean, sd = self.images.mean((0, 2, 3), keepdim=True), self.images.std((0, 2, 3), keepdim=True)
        self.images.sub_(mean).div_(sd)
        self.labels = torch.from_numpy(labels)
        self.augmented = job.cell.source.augmented

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        image = self.images[place]
        if self.augmented:
            height, width = image.shape[1:]
            top, left = torch.randint(0, 2 * PADDING + 1, (2,)).tolist()
            image = F.pad(image, (PADDING,) * 4)[:, top : top + height, left : left + width]
            if torch.rand(()) < 0.5:
                image = image.flip(2)
        return image, self.labels[place]


class Plain(Loop):
    """DataLoader, eager, fp32, one network after another."""

    def __init__(self, job: Job) -> None:
        super().__init__(job, job.cell.batch)
        self.network = network_of_layers(job.cell, groups=1).to(self.device)
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


def network_of_layers(cell: Cell, groups: int) -> nn.Sequential:
    """The network up to its average, from torch's layers; with ``groups`` replicas side by side where it is above 1."""
    layers: list[nn.Module] = []
    for number, (channels_in, channels_out) in enumerate(cell.convolutions):
        width = groups * channels_out
        layers.append(nn.Conv2d(groups * channels_in, width, 3, padding=1, groups=groups))
        if number > 0:
            norm = nn.BatchNorm2d(width) if cell.norm == "BatchNorm" else nn.GroupNorm(groups * GROUPS, width)
            layers += [norm, nn.ReLU()]
    head = [nn.Linear(cell.width, CLASSES)] if groups == 1 else []
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *head)


# ── with the data on the device ─────────────────────────────────────────────────────────────────────────────────────


class Feed:
    """The images as uint8 on the device; batches for R replicas, each in its own order, cut out by index arithmetic."""

    def __init__(self, job: Job, replicas: int, dtype: torch.dtype) -> None:
        images, labels = arrays(job)
        device = torch.device(job.device)
        self.batch, self.dtype, self.augmented = job.cell.batch, dtype, job.cell.source.augmented
        self.count, self.height, self.width, channels = images.shape
        padding = PADDING if self.augmented else 0
        padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        self.padded_height, self.padded_width = padded.shape[1:3]
        self.pixels = torch.from_numpy(padded).to(device).view(-1, channels)
        self.labels = torch.from_numpy(labels).to(device)
        self.mean = torch.from_numpy(images.mean((0, 1, 2), dtype=np.float64)).float().to(device)
        self.inverse_sd = torch.from_numpy(1 / images.std((0, 1, 2), dtype=np.float64)).float().to(device)
        self.rows = torch.arange(self.height, device=device)
        self.columns = torch.arange(self.width, device=device)
        self.order_Rn = torch.zeros(replicas, self.count, dtype=torch.int64, device=device)
        self.flip_Rn = torch.zeros(replicas, self.count, dtype=torch.bool, device=device)
        self.crop_2Rn = torch.zeros(2, replicas, self.count, dtype=torch.int64, device=device)
        self.first_B = torch.arange(self.batch, device=device)
        self.place_B = self.first_B.clone()
        self.steps_left = 0

    def before_step(self) -> None:
        """At an epoch's end, draw the next one, into the tensors that are there: a captured graph reads them."""
        if self.steps_left == 0:
            device = self.labels.device
            for order_n in self.order_Rn:
                order_n.copy_(torch.randperm(self.count, device=device))
            if self.augmented:
                self.flip_Rn.copy_(torch.rand(self.flip_Rn.shape, device=device) < 0.5)
                self.crop_2Rn.copy_(torch.randint(0, 2 * PADDING + 1, self.crop_2Rn.shape, device=device))
            self.place_B.copy_(self.first_B)
            self.steps_left = self.count // self.batch
        self.steps_left -= 1

    def batches(self) -> tuple[Tensor, Tensor]:
        """Images [R, B, H, W, C] and labels [R, B] of the next step."""
        index_RB = self.order_Rn.index_select(1, self.place_B)
        rows_RBH, columns_RBW = self.rows[None, None], self.columns[None, None]
        if self.augmented:
            flip_RB1 = self.flip_Rn.index_select(1, self.place_B).unsqueeze(2)
            crop_2RB1 = self.crop_2Rn.index_select(2, self.place_B).unsqueeze(3)
            rows_RBH = rows_RBH + crop_2RB1[0]
            columns_RBW = torch.where(flip_RB1, self.width - 1 - columns_RBW, columns_RBW) + crop_2RB1[1]
        place_RBH = (index_RB.unsqueeze(2) * self.padded_height + rows_RBH) * self.padded_width
        place_RBHW = place_RBH.unsqueeze(3) + columns_RBW.unsqueeze(2)
        x_RBHWC = self.pixels.index_select(0, place_RBHW.flatten()).unflatten(0, place_RBHW.shape)
        x_RBHWC = x_RBHWC.float().sub_(self.mean).mul_(self.inverse_sd).to(self.dtype)
        self.place_B += self.batch
        return x_RBHWC, self.labels[index_RB]


class ConvNet(nn.Module):
    """One network; convolutions in ``dtype`` from fp32 weights, norms with fp32 scale and shift, the head in fp32."""

    def __init__(self, cell: Cell, dtype: torch.dtype, stacked: bool = False) -> None:
        """``stacked``: to be called by ``vmap``, which can neither update running statistics nor mix types within a norm."""
        super().__init__()
        self.dtype, self.norm, self.stacked = dtype, cell.norm, stacked
        self.convolutions = nn.ModuleList(nn.Conv2d(*channels, 3, padding=1) for channels in cell.convolutions)
        self.scales = nn.ParameterList(torch.ones(cell.width) for _ in range(cell.depth))
        self.shifts = nn.ParameterList(torch.zeros(cell.width) for _ in range(cell.depth))
        self.head = nn.Linear(cell.width, CLASSES)
        for number in range(cell.depth):
            self.register_buffer(f"mean{number}", None if stacked else torch.zeros(cell.width))
            self.register_buffer(f"variance{number}", None if stacked else torch.ones(cell.width))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] → [B, K]."""
        x = self._convolve(0, x)
        for number in range(len(self.scales)):
            x = F.relu(self._normalise(number, self._convolve(number + 1, x)))
        return self.head(x.mean((2, 3)).float())

    def _convolve(self, number: int, x: Tensor) -> Tensor:
        layer = self.convolutions[number]
        return F.conv2d(x.to(self.dtype), layer.weight.to(self.dtype), layer.bias.to(self.dtype), padding=1)

    def _normalise(self, number: int, x: Tensor) -> Tensor:
        scale, shift = self.scales[number], self.shifts[number]
        if self.stacked:
            x = F.batch_norm(x, None, None, training=True) if self.norm == "BatchNorm" else F.group_norm(x, GROUPS)
            scale, shift = (values.to(x.dtype)[:, None, None] for values in (scale, shift))
            return torch.addcmul(shift, x, scale)
        if self.norm == "BatchNorm":
            statistics = getattr(self, f"mean{number}"), getattr(self, f"variance{number}")
            return F.batch_norm(x, *statistics, scale, shift, training=True)
        if x.is_cuda:  # there, torch wants all three in one type
            return F.group_norm(x.float(), GROUPS, scale, shift).to(x.dtype)
        return F.group_norm(x, GROUPS, scale, shift)

    def look_at_memory(self, x: Tensor) -> str:
        """The memory formats of what the norms put out for these images."""
        with torch.no_grad():
            found = set()
            x = self._convolve(0, x)
            for number in range(len(self.scales)):
                x = self._normalise(number, self._convolve(number + 1, x))
                found.add(memory_of(x))
        return " and ".join(sorted(found))


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
        self.step()
        if self.device.type != "cuda":
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
        cell = job.cell
        self.network = network_of_layers(cell, groups=self.replicas)
        if self.replicas == 1:
            self.network = self.network[:-1]
        bound = cell.width**-0.5
        self.weight = nn.Parameter(torch.empty(self.replicas, cell.width, CLASSES).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(self.replicas, 1, CLASSES).uniform_(-bound, bound))
        self.network.append(_Heads(self.weight, self.bias)).to(self.device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=LEARNING_RATE)

    def train(self, x_RBHWC: Tensor, labels_RB: Tensor) -> tuple[Tensor, Tensor]:
        x_NCHW = x_RBHWC.permute(1, 0, 4, 2, 3).flatten(1, 2).contiguous()
        logits_RBK = self.network(x_NCHW)
        loss_R = F.cross_entropy(logits_RBK.transpose(1, 2), labels_RB, reduction="none").mean(1)
        self.optimizer.zero_grad()
        loss_R.sum().backward()
        self.optimizer.step()
        return loss_R, logits_RBK


class _Heads(nn.Module):
    """A linear layer a replica, [B, R·F] → [R, B, K]."""

    def __init__(self, weight_RFK: nn.Parameter, bias_R1K: nn.Parameter) -> None:
        super().__init__()
        self.weight_RFK, self.bias_R1K = weight_RFK, bias_R1K

    def forward(self, x: Tensor) -> Tensor:
        x_RBF = x.unflatten(1, (len(self.weight_RFK), -1)).transpose(0, 1)
        return torch.baddbmm(self.bias_R1K, x_RBF, self.weight_RFK)


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
