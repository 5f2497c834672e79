"""Parts of the user's own, for R replicas: a reference and sizes in, a module with stacked weights out, checked for exactness.

An own part is written as for a lone network, an ordinary ``torch.nn.Module``. There are three ways to have R of it, in this
order: it declares one by a classmethod ``packed``; it acts element by element without numbers of its own, so that one instance
serves all; or each replica's channels go through it one after the other, with that replica's row of the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parameter import is_lazy

from allelse import own, recipe
from allelse.blocks.weights import Stacked, wide
from allelse.errors import PartError
from allelse.records import digest

Packing = Literal["declared", "elementwise", "one by one"]
Kind = Literal["activation", "norm", "block", "family"]


@dataclass(frozen=True)
class Maker:
    """How the lone modules of one own part are made."""

    part: recipe.OwnCode
    kind: Kind
    """the key of the model under which it stands"""
    sizes: tuple[Any, ...]
    """what it is called with before its keyword arguments"""

    @cached_property
    def made_by(self) -> Any:
        """The user's class."""
        try:
            return own.find(self.part.reference)
        except PartError as error:
            raise PartError(error.reason, ("model", self.kind)) from None

    @property
    def declares(self) -> bool:
        return callable(getattr(self.made_by, "packed", None))

    def lone(self, generator: np.random.Generator | None = None) -> nn.Module:
        """A module of a lone network, on the CPU, its weights drawn from ``generator`` through torch's global generator."""
        sizes = self.sizes
        if self.kind == "activation" and "channels" not in _parameters(self.made_by):
            sizes = ()
        return self._made(self.made_by, sizes, generator)

    def packed(self, replicas: int) -> nn.Module:
        """The module for R networks that the part declares."""
        return self._made(self.made_by.packed, (replicas, *self.sizes), None)

    def _made(self, make: Any, sizes: tuple[Any, ...], generator: np.random.Generator | None) -> nn.Module:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.default_generator.manual_seed(int(generator.integers(2**63)) if generator is not None else 0)
            with own.refused_where_it_fails(self.refused, "when it is made"):
                module = make(*sizes, **self.part.arguments)
        if not isinstance(module, nn.Module):
            raise self.refused(f"gives a {type(module).__name__}; allowed: a class or function that gives a torch.nn.Module")
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if is_lazy(tensor):
                raise self.refused(f"has {name} of no shape yet; give the sizes, as in torch.nn.Linear for torch.nn.LazyLinear")
        return module

    def refused(self, reason: str) -> PartError:
        return PartError(f"{self.part.reference!r} {reason}", ("model", self.kind))

    @property
    def rule(self) -> str:
        """What its initial weights follow from besides seed and name: only parts that share this are held to share them."""
        arguments = self.part.arguments
        return self.part.reference + (f" {digest(arguments)}" if arguments else "")


def _parameters(kind: Any) -> Mapping[str, Any]:
    try:
        return signature(kind).parameters
    except (TypeError, ValueError):  # written in C
        return {}


class Rows(Stacked):
    """The numbers of one module within an own part, stacked over replicas, under the names that they have there."""

    rule_in_words = ""

    def rule(self, name: str) -> str:
        return self.rule_in_words


class Own(Rows):
    """An own part for R replicas: [N, R·C, ...] → [N, R·D, ...].

    Its numbers are stacked as everywhere here: parameters that learn as parameters, all else as buffers, each [R, ...].
    Where it does not act element by element, it computes in float32 (float64 where the network does), on a device that is
    asked for bf16 under ``torch.autocast``, as its author would run it.
    """

    def __init__(self, replicas: int, maker: Maker, packing: Packing, gathered: Sequence[str] = ()) -> None:
        """
        Arguments:
            replicas: R.
            maker: of its lone modules.
            packing: how there are R of it.
            gathered: its buffers into which training gathers numbers.
        """
        super().__init__(replicas)
        self._maker, self.packing, self.gathered = maker, packing, gathered
        lone = maker.lone()
        # Not a child: its tensors stand in for those of ``rows`` while it computes, and are no weights of the network.
        template = maker.packed(replicas) if packing == "declared" else lone
        template.train()  # which may be overridden, as for norms that are frozen
        self._template = [template]
        self.rule_in_words = maker.rule
        for name, tensor in {**dict(lone.named_parameters()), **dict(lone.named_buffers())}.items():
            try:
                self._stack(name, tensor)
            except KeyError as error:  # torch keeps one name for one thing
                raise maker.refused(f"names a tensor {name!r}, of which torch says {error}; give it another name") from None

    def _stack(self, name: str, tensor: Tensor) -> None:
        """Make room for R of a tensor of a lone module, under its name there."""
        *parents, last = name.split(".")
        module: nn.Module = self
        for parent in parents:
            if parent not in module._modules:
                rows = Rows(self.replicas)
                rows.rule_in_words = self.rule_in_words
                module.add_module(parent, rows)
            module = module.get_submodule(parent)
        stacked = torch.zeros(self.replicas, *tensor.shape, dtype=tensor.dtype)
        if isinstance(tensor, nn.Parameter) and tensor.requires_grad:
            module.register_parameter(last, nn.Parameter(stacked))
        else:
            module.register_buffer(last, stacked)

    @property
    def reference(self) -> str:
        return self._maker.part.reference

    def refused(self, reason: str) -> PartError:
        return self._maker.refused(reason)

    def shape_after(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """What leaves of one replica where ``shape`` enters, without the images."""
        channels, *positions = shape
        out = self(torch.empty(2, channels * self.replicas, *positions, device="meta"))
        return (out.shape[1] // self.replicas, *out.shape[2:])

    def extra_repr(self) -> str:
        return self.reference.rpartition(":")[2]

    @torch.no_grad()
    def draw(self, replica: int, generator: np.random.Generator) -> None:
        """Give one replica the numbers that a lone module made with this generator starts from."""
        lone = self._maker.lone(generator)
        rows = self._rows()
        for name, tensor in {**dict(lone.named_parameters()), **dict(lone.named_buffers())}.items():
            rows[name][replica] = tensor.to(rows[name])

    def _rows(self) -> dict[str, Tensor]:
        return {**dict(self.named_parameters()), **dict(self.named_buffers())}

    def forward(self, x: Tensor) -> Tensor:
        [template] = self._template
        if template.training != self.training:
            template.train(self.training)
        if x.is_meta:
            return self._shape_only(template, x)
        if self.packing == "elementwise":
            return template(x).to(x.dtype)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=x.dtype == torch.bfloat16, cache_enabled=False):
            if self.packing == "declared":
                out = self._computed(template, slice(None), wide(x))
            else:
                parts = wide(x).unflatten(1, (self.replicas, -1)).unbind(1)
                computed = [self._computed(template, replica, part.contiguous()) for replica, part in enumerate(parts)]
                out = torch.cat(computed, 1)
        out = wide(out) if self._maker.kind == "family" else out.to(x.dtype)  # logits are summed up in full
        return out.contiguous(memory_format=torch.channels_last) if out.dim() == 4 else out

    def _computed(self, template: nn.Module, at: int | slice, x: Tensor) -> Tensor:
        buffers = dict(self.named_buffers())
        # Copies: a module may write to its buffers, or put others in their place, while autograd holds what it read.
        tensors = {name: parameter[at] for name, parameter in self.named_parameters()}
        tensors |= {name: buffer[at].clone() for name, buffer in buffers.items()}
        out: Tensor = functional_call(template, tensors, (x,))
        with torch.no_grad():
            for name, buffer in buffers.items():
                buffer[at] = tensors[name]
        return out

    def _shape_only(self, template: nn.Module, x: Tensor) -> Tensor:
        """The user's code may look at values, which the meta device has none of: it is shown zeros."""
        channels = x.shape[1] if self.packing != "one by one" else x.shape[1] // self.replicas
        with torch.device("cpu"), torch.no_grad():
            shape = template(torch.zeros(len(x), channels, *x.shape[2:])).shape
        return x.new_empty(len(x), shape[1] * (x.shape[1] // channels), *shape[2:])
