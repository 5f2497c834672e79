"""Devices: the name a user gives and the precision a recipe asks for in, a torch device and dtype out."""

from __future__ import annotations

import ctypes
import platform
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch

from allelse.errors import DeviceError, counted, did_you_mean

DEVICES = ("auto", "cpu", "cuda", "mps")


def settle() -> None:
    """Set what torch has one setting of a process for, whatever it was before: every training begins with this.

    Resuming must give the same bits, and fp32 must mean fp32: no kernels that are chosen by a race or whose sums come in any
    order, no TF32 in disguise, no sums in bf16 where a product is split.
    """
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    _keep_memory()


@cache
def _keep_memory() -> None:
    # glibc gives every tensor of over 32 MB back to the system when it is freed, and the next one is paid for page by page: a
    # fifth of the training and half of the evaluation on two cores. Keep it (M_MMAP_MAX = 0, M_TRIM_THRESHOLD = 2 GB).
    with suppress(OSError, AttributeError, TypeError):  # no glibc: macOS, Windows, musl
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)
        libc.mallopt(-1, 2**31 - 1)


def find_device(name: str = "auto") -> torch.device:
    """The device of that name; ``auto`` takes CUDA where there is one, else the CPU.

    MPS is taken only by name: nothing has been measured or checked on it yet.

    Raises:
        DeviceError: no such device here.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    kind, colon, index = name.partition(":")
    if name == "auto":
        return torch.device("cuda" if available["cuda"] else "cpu")
    is_whole = index.isascii() and index.isdigit() and index == str(int(index))
    if kind not in available or (colon and not (is_whole and kind == "cuda")):
        meant = "cuda" if kind == "gpu" else name  # which is nearer to 'cpu' by its letters
        raise DeviceError(f"--device {name}: unknown device; {did_you_mean(meant, DEVICES)}")
    here = [kind for kind, there in available.items() if there]
    if not available[kind] or (kind == "cuda" and index and int(index) >= torch.cuda.device_count()):
        raise DeviceError(f"--device {name}: not on this machine; here: {', '.join(here)}; leave --device out to take the best")
    return torch.device(name)


def describe_device(device: torch.device) -> str:
    """The device's own name, e.g. 'NVIDIA H200' or 'AMD EPYC (2 threads)'."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return f"Apple {platform.machine()} (mps)"
    return f"{_cpu_name()} ({counted(torch.get_num_threads(), 'thread')})"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """What convolutions and products compute in on ``device``: bf16 where the device is fast at it, when ``auto``."""
    if precision == "auto":
        precision = "bf16" if _is_fast_at_bf16(device) else "fp32"
    return {"bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64}[precision]


def sum_dtype(device: torch.device) -> torch.dtype:
    """What sums over many batches are kept in: float64, which MPS lacks."""
    return torch.float32 if device.type == "mps" else torch.float64


def _is_fast_at_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.11 may not have it
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False
