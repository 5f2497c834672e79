"""The check that an own part must pass before it is trusted: how its lone modules are made in, how R are packed out.

In float64, on a few random images: the outputs, the gradients of inputs and weights, and the buffers of a pack of three (and of
one, where the part itself says how it is packed) must be those of lone modules, over two training steps and an evaluation.
Whatever fails is refused with its reason.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any
from warnings import catch_warnings

import torch
from torch import Tensor, nn

from allelse import own, recipe
from allelse.blocks.own import Kind, Maker, Own, Packing
from allelse.errors import PartError
from allelse.seeds import stream

REPLICAS, IMAGES, STEPS = 3, 4, 2
STEPS_TO_GATHER = 10
TOLERANCE = 1e-9
"""relative to the largest number of its tensor; sums in another order differ by some 1e-15"""

RAISES = "that it raises "
"""before an error, where a pack comes to none of the outcomes of lone modules"""

Outcome = dict[str, Tensor]
"""What a few steps of one replica gave, by what it is."""


@lru_cache(maxsize=256)
def packing_of(maker: Maker, shape: tuple[int, ...]) -> Packing:
    """How to have R of an own part, once a process for each size.

    Arguments:
        maker: of its lone modules.
        shape: of one image's numbers where it enters: channels, height, width; or features.

    Raises:
        PartError: the part would not be exact, or does not fit here.
    """
    with torch.device("cpu"), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        x_SNRC = _images((STEPS, IMAGES, REPLICAS, *shape))
        lone = [_lone_outcome(maker, replica, x_SNRC[:, :, replica]) for replica in range(REPLICAS)]
        if maker.declares:
            _check_declared(maker)
            if reason := _difference(maker, "declared", x_SNRC, lone):
                raise maker.refused(_mixes(maker, x_SNRC) or f"declares 'packed', which differs from lone ones in {reason}")
            if reason := _difference(maker, "declared", x_SNRC[:, :, :1], lone[:1]):  # where a stray squeeze shows
                raise maker.refused(f"declares 'packed', which for one network differs from a lone one in {reason}")
            return "declared"
        if _is_elementwise(maker, shape) and not _difference(maker, "elementwise", x_SNRC, lone):
            return "elementwise"
        if reason := _difference(maker, "one by one", x_SNRC, lone):
            if reason.startswith(RAISES):
                raise maker.refused(
                    "cannot compute with weights that are put in for its own, as torch.func.functional_call does: "
                    f"it raises {reason.removeprefix(RAISES)}"
                )
            raise maker.refused(
                f"keeps something from one call to the next that is no parameter or buffer (a pack differs in {reason}); "
                "keep it in a buffer, by register_buffer"
            )
        return "one by one"


def build_own(replicas: int, part: recipe.OwnCode, kind: Kind, sizes: tuple[Any, ...], shape: tuple[int, ...]) -> Own:
    """The module of an own part for R replicas.

    Arguments:
        replicas: R.
        part: which.
        kind: the key of the model under which it stands.
        sizes: what its lone module is made with, before its keyword arguments.
        shape: of one image's numbers where it enters.

    Raises:
        PartError: it is refused.
    """
    maker = Maker(part, kind, sizes)
    return Own(replicas, maker, packing_of(maker, shape), gathered_by(maker, shape))


@lru_cache(maxsize=256)
def gathered_by(maker: Maker, shape: tuple[int, ...]) -> tuple[str, ...]:
    """The buffers of a part, known to be exact, into which its training gathers numbers: running statistics, as a rule."""
    with torch.device("cpu"), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        module = _module(maker, 0)
        before = {name: buffer.clone() for name, buffer in module.named_buffers()}
        _outcome(maker, module, _images((STEPS_TO_GATHER, IMAGES, *shape)))
        return tuple(
            name
            for name, buffer in module.named_buffers()
            if buffer.is_floating_point() and not torch.equal(buffer, before[name])
        )


def _images(shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(stream(0, "check", *shape).normal(0, 2, shape))


def _module(maker: Maker, replica: int) -> nn.Module:
    return maker.lone(stream(replica, "check")).double()


def _lone_outcome(maker: Maker, replica: int, x_SNC: Tensor) -> Outcome:
    """What a lone module does, once it is known to do the same each time and to fit."""
    first, again = _module(maker, replica), _module(maker, replica)
    if any(not _same(values, again.state_dict()[name]) for name, values in first.state_dict().items()):
        raise maker.refused("draws its weights from elsewhere than torch's global generator; draw them by torch.nn.init")
    with own.refused_where_it_fails(maker.refused, f"when it is given images {list(x_SNC.shape[1:])}"):
        entered = x_SNC[0].clone()
        with torch.no_grad():
            _check_output(maker, entered, again(entered))
        if not torch.equal(entered, x_SNC[0]):
            raise maker.refused("changes its input in place; allowed: to give a new tensor")
        outcomes = []
        for seed, module in enumerate((first, _module(maker, replica))):
            torch.default_generator.manual_seed(seed)
            outcomes.append(_outcome(maker, module, x_SNC))
    if reason := _apart(*outcomes):
        raise maker.refused(
            f"is random: two calls with the same weights and images differ in {reason}, and no seed of a study pairs that"
        )
    return outcomes[0]


def _check_output(maker: Maker, x: Tensor, y: object) -> None:
    if not isinstance(y, Tensor):
        raise maker.refused(f"gives a {type(y).__name__}; allowed: one tensor")
    entered, left = list(x.shape), list(y.shape)
    if maker.kind in ("activation", "norm"):
        fits, wanted = entered == left, "the shape that came in"
    elif maker.kind == "family":
        fits, wanted = left == [len(x), maker.sizes[1]], f"[images, {maker.sizes[1]} classes]"
    else:
        fits, wanted = len(left) == len(entered) and left[:2] == [len(x), maker.sizes[1]], f"{maker.sizes[1]} channels"
    if not fits:
        raise maker.refused(f"gives {left} for images {entered}; allowed: {wanted}")
    if y.dtype != x.dtype:
        raise maker.refused(f"gives {y.dtype} where {x.dtype} came in; keep the type of the input")
    if not torch.isfinite(y).all():
        raise maker.refused("gives NaN or infinity for ordinary numbers (normal, standard deviation 2)")


def _outcome(maker: Maker, module: nn.Module, x_SNC: Tensor) -> Outcome:
    """Two training steps without an optimiser, then an evaluation."""
    outcome: Outcome = {}
    module.train()
    for step, x in enumerate(x_SNC):
        x = x.clone().requires_grad_()
        y = module(x)
        if not y.requires_grad:
            raise maker.refused("has no gradient: what it gives does not depend on its input for autograd")
        learned = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
        weights = torch.arange(y.numel(), dtype=y.dtype).cos().view(y.shape)
        gradients = torch.autograd.grad((y * weights).sum(), [x, *learned.values()], allow_unused=True)
        if gradients[0] is None:
            raise maker.refused("has no gradient: what it gives does not depend on its input for autograd")
        outcome[f"the output of step {step + 1}"] = y.detach()
        for name, gradient in zip(["its input", *learned], gradients, strict=True):
            outcome[f"the gradient of {name} in step {step + 1}"] = torch.zeros(1) if gradient is None else gradient
    outcome |= {f"the buffer {name}": buffer.clone() for name, buffer in module.named_buffers()}
    module.eval()
    with torch.no_grad():
        outcome["the output in evaluation"] = module(x_SNC[0])
    return outcome


def _pack(maker: Maker, packing: Packing, replicas: int) -> Own:
    pack = Own(replicas, maker, packing).double()
    for replica in range(replicas):
        pack.draw(replica, stream(replica, "check"))
    return pack


def _joined(x_NRC: Tensor) -> Tensor:
    """[N, R, C, ...] → [N, R·C, ...] in the memory format that networks have here."""
    x = x_NRC.flatten(1, 2)
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def _difference(maker: Maker, packing: Packing, x_SNRC: Tensor, lone: list[Outcome]) -> str:
    """Where a pack is not what the lone modules are, in words; nothing where it is."""
    try:
        packed = _packed_outcomes(maker, packing, x_SNRC)
    except PartError:
        raise
    except Exception as error:
        return f"{RAISES}{own.in_words(error)}"
    return next(filter(None, map(_apart, packed, lone)), "")


def _packed_outcomes(maker: Maker, packing: Packing, x_SNRC: Tensor) -> list[Outcome]:
    """As ``_outcome``, for each replica of one pack."""
    replicas = x_SNRC.shape[2]
    pack, outcomes = _pack(maker, packing, replicas), [Outcome() for _ in range(replicas)]

    def add(what: str, values_R: Tensor) -> None:
        for outcome, values in zip(outcomes, values_R, strict=True):
            outcome[what] = values

    def by_replica(y: Tensor) -> Tensor:
        return y.unflatten(1, (replicas, -1)).transpose(0, 1)

    pack.train()
    for step, x_NRC in enumerate(x_SNRC):
        x = _joined(x_NRC).requires_grad_()
        y_RN = by_replica(pack(x))
        learned = dict(pack.named_parameters())
        weights = torch.arange(y_RN[0].numel(), dtype=y_RN.dtype).cos().view(y_RN.shape[1:])
        of_x, *of_learned = torch.autograd.grad((y_RN * weights).sum(), [x, *learned.values()], allow_unused=True)
        add(f"the output of step {step + 1}", y_RN.detach())
        add(f"the gradient of its input in step {step + 1}", by_replica(of_x))
        for name, gradient in zip(learned, of_learned, strict=True):
            add(f"the gradient of {name} in step {step + 1}", torch.zeros(replicas, 1) if gradient is None else gradient)
    for name, buffer in pack.named_buffers():
        add(f"the buffer {name}", buffer.clone())
    pack.eval()
    with torch.no_grad():
        add("the output in evaluation", by_replica(pack(_joined(x_SNRC[0]))))
    return outcomes


def _apart(ours: Outcome, theirs: Outcome) -> str:
    """What of two outcomes is not the same, by how much."""
    for what, values in theirs.items():
        if what not in ours or not _same(ours[what], values):
            size = f" by {_distance(ours[what], values):.2g}" if what in ours and ours[what].shape == values.shape else ""
            return f"{what}{size}"
    return ""


def _same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    size = other.double().abs().max() if other.numel() else 0.0
    return _distance(one, other) <= TOLERANCE * (1 + float(size))


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other.double()).abs().max()) if one.numel() else 0.0


def _mixes(maker: Maker, x_SNRC: Tensor) -> str:
    """Whether one replica's numbers reach another's output."""
    disturbed = x_SNRC.clone()
    disturbed[:, :, 1] = 5 - 3 * disturbed[:, :, 1]
    try:
        one, other = (_packed_outcomes(maker, "declared", x) for x in (x_SNRC, disturbed))
    except Exception:
        return ""
    reason = _apart(other[0], one[0]) or _apart(other[2], one[2])
    return f"mixes replicas: another replica's images change {reason}" if reason else ""


def _check_declared(maker: Maker) -> None:
    """Its pack must have the numbers of its lone modules, stacked."""
    lone, packed = maker.lone().state_dict(), maker.packed(REPLICAS).state_dict()
    wanted = {name: [REPLICAS, *values.shape] for name, values in lone.items()}
    given = {name: list(values.shape) for name, values in packed.items()}
    if given != wanted:
        raise maker.refused(
            f"declares 'packed', which has {_table(given)} for {REPLICAS} replicas; "
            f"allowed: what a lone one has, with the replicas first: {_table(wanted)}"
        )


def _table(shapes: dict[str, list[int]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "no numbers"


def _is_elementwise(maker: Maker, shape: tuple[int, ...]) -> bool:
    """Whether each number that comes out follows from the one that came in at its place, whatever place that is."""
    module = maker.lone().double()
    if any(True for _ in (*module.parameters(), *module.buffers())):
        return False
    x = _images((IMAGES, REPLICAS * shape[0], *shape[1:]))
    random = stream(0, "check", "elementwise")
    order = torch.from_numpy(random.permutation(x.numel()))
    half = torch.from_numpy(random.random(x.shape) < 0.5)
    for training in (True, False):
        module.train(training)
        try:
            with torch.no_grad(), catch_warnings(action="ignore"):  # about channels that are not those of one network
                y, moved = module(x), module(x.flatten()[order].view(x.shape))
                others = [module(torch.where(changed, 10 * x + 1, x)) for changed in (half, ~half)]
        except Exception:  # it needs the channels of one network, say
            return False
        if not (_same(moved.flatten(), y.flatten()[order]) and _same(torch.where(half, others[1], others[0]), y)):
            return False
    return True
