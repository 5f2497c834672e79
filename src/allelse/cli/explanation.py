"""What ``allelse explain`` prints: the anatomy of one arm, or of two and their difference, in; text of 80 columns out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from allelse.cli.tables import make_console, make_table, show_item, show_table, value_text
from allelse.study import Study

if TYPE_CHECKING:
    from allelse.explanation import Anatomy, Difference  # bring torch along
    from allelse.models import LayerRow

Unit = tuple[str, int, list["LayerRow"]]
"""What stands before a number in the names of its layers, the number, and the layers: one block"""


def show_anatomy(study: Study, shown: Anatomy) -> None:
    """Every layer with its costs; neighbouring blocks that are alike share their lines."""
    console, recipe = make_console(), shown.arm.recipe
    console.print(f"{study.name}: {shown.arm.name}", style="bold")
    pixels = " × ".join(map(str, shown.image_shape))
    console.print(f"{recipe.dataset}: images of {pixels}, {shown.classes} classes")
    table = make_table(
        "layer", "×", "kind", "output", "parameters", "mult–adds", numbers=["×", "output", "parameters", "mult–adds"]
    )
    for name, count, layer in _in_short(shown.layers):
        macs = si(layer.macs) if layer.macs else "–"
        table.add_row(name, str(count), _kind(layer), _shape(layer), f"{layer.parameters:,}", macs)
    table.add_section()
    table.add_row("total", str(len(shown.layers)), "", "", f"{shown.parameters:,}", si(shown.macs))
    show_table(console, table)
    memory, batch = shown.memory, recipe.batch_size
    console.print(
        "\n×: how many layers are alike; figures are of one of them, for one image. Output: channels × height × width, or "
        "features; convolutions have stride 1 where none is named. Multiply–adds: forward, in convolutions and products."
    )
    console.print(f"\nOne image makes {si(shown.activations)} activations. Training one network at batch size {batch}:")
    parts = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        f"state of {recipe.optimizer.name}": memory.optimizer,
        f"activations of {batch} images": memory.activations,
        "together": memory.total,
    }
    for what, size in parts.items():
        console.print(f"  {what:<30}{binary(size) if size else 'none':>12}")
    as_fp32 = "; activations as fp32, half of that in bf16" if recipe.precision == "auto" else f" in {recipe.precision}"
    console.print(
        f"Counted: each layer's output once, as kept for the backward pass{as_fp32}. Not counted: images, running statistics, "
        "what kernels need for themselves. A pack of R replicas takes R times as much."
    )


def show_difference(first: Anatomy, second: Anatomy, found: Difference, seed: int) -> None:
    """What sets two arms apart, and what does not."""
    console = make_console()
    console.print(f"\n{first.arm.name} → {second.arm.name}", style="bold")
    console.print("Recipe keys that differ")
    for key, values in found.keys.items():
        if values != [None, None]:  # a key that one part leaves empty and the other does not have
            show_item(console, f"{key}: {value_text(values[0])} → {value_text(values[1])}")
    console.print("\nLayers that differ")
    changes = [(_change(old, new), old.name) for old, new in found.changed]
    changes += [(f"order {', '.join(old)} → {', '.join(new)}", block) for block, (old, new) in found.orders.items()]
    changes += [("only in the first", layer.name) for layer in found.removed]
    changes += [("only in the second", layer.name) for layer in found.added]
    for change in dict.fromkeys(change for change, _ in changes):
        show_item(console, f"{', '.join(ranges([name for other, name in changes if other == change]))}: {change}")
    if not changes:
        show_item(console, "none")
    for what, old, new in (
        ("parameters", first.parameters, second.parameters),
        ("multiply–adds an image", first.macs, second.macs),
        ("activations an image", first.activations, second.activations),
    ):
        if old != new:
            show_item(console, f"{what}: {old:,} → {new:,}")
    if first.memory != second.memory:
        show_item(console, f"memory of one network in training: {binary(first.memory.total)} → {binary(second.memory.total)}")
    apart = [name for name, equal in found.weights.items() if not equal]
    same = len(found.weights) - len(apart)
    console.print(
        f"\nEqual in both: all other recipe keys; {found.equal} layers; the initial weights in {same} parameter "
        f"tensors that both have in one shape, compared bit by bit for seed {seed}. Runs of one seed also share, but for what "
        "differs above, the training images, their order and their augmentation."
    )
    if apart:
        console.print(f"Parameters of one name and shape that start from other values: {', '.join(ranges(apart))}")


def _change(old: LayerRow, new: LayerRow) -> str:
    """What is another in a layer: its kind, its output; its costs only where they are all that is."""
    parts = [f"{_kind(old)} → {_kind(new)}"] if old.kind != new.kind else []
    parts += [f"output {_shape(old)} → {_shape(new)}"] if old.output_shape != new.output_shape else []
    for what, before, after in (("parameters", old.parameters, new.parameters), ("multiply–adds", old.macs, new.macs)):
        parts += [f"{what} {before:,} → {after:,}"] if before != after and not parts else []
    return ", ".join(parts)


def _kind(layer: LayerRow) -> str:
    return re.sub(r", stride 1(?!\d)", "", layer.kind)


def _shape(layer: LayerRow) -> str:
    return "×".join(map(str, layer.output_shape))


def _in_short(layers: Sequence[LayerRow]) -> Iterable[tuple[str, int, LayerRow]]:
    """(name, how many, layer): ``blocks.0–7.conv`` for a layer that eight blocks in a row have alike."""
    units: list[Unit] = []
    for layer in layers:
        prefix, number, _ = _parts(layer.name)
        if units and number >= 0 and units[-1][:2] == (prefix, number):
            units[-1][2].append(layer)
        else:
            units.append((prefix, number, [layer]))
    while units:
        prefix, first, members = units.pop(0)
        count = 1
        while units and first >= 0 and units[0][:2] == (prefix, first + count) and _costs(units[0][2]) == _costs(members):
            units.pop(0)
            count += 1
        for layer in members:
            rest = _parts(layer.name)[2]
            [name] = ranges([f"{prefix}{first + more}{rest}" for more in range(count)] if first >= 0 else [layer.name])
            yield name, count, layer


def _costs(layers: Sequence[LayerRow]) -> list[object]:
    return [(_parts(each.name)[2], each.kind, each.output_shape, each.parameters, each.macs) for each in layers]


def _parts(name: str) -> tuple[str, int, str]:
    """``blocks.3.conv`` as ('blocks.', 3, '.conv'); −1 where a name has no number."""
    found = re.match(r"(.*?\.)(\d+)((?:\..*)?)$", name)
    return (found[1], int(found[2]), found[3]) if found else (name, -1, "")


def ranges(names: Sequence[str]) -> list[str]:
    """Names in order, with neighbours in one: ``blocks.0–7.act``."""
    numbers: dict[tuple[str, str], list[int]] = {}
    for name in names:
        prefix, number, rest = _parts(name)
        numbers.setdefault((prefix, rest), []).append(number)
    found = []
    for (prefix, rest), listed in numbers.items():
        runs: list[list[int]] = []
        for number in sorted(listed):
            if runs and number == runs[-1][-1] + 1:
                runs[-1].append(number)
            else:
                runs.append([number])
        texts = [f"{run[0]}–{run[-1]}" if run[1:] else f"{run[0]}" for run in runs]
        found.append(prefix if listed == [-1] else f"{prefix}{','.join(texts)}{rest}")
    return found


def si(count: int) -> str:
    """``37.7 M``: three digits and more, of thousands, millions and so on."""
    for power, unit in ((9, " G"), (6, " M"), (3, " k")):
        if count >= 10**power:
            return f"{count / 10**power:,.1f}{unit}"
    return str(count)


def binary(size: int) -> str:
    """``1.2 MiB``."""
    for power, unit in ((30, "GiB"), (20, "MiB")):
        if size >= 2**power:
            return f"{size / 2**power:,.1f} {unit}"
    return f"{size / 2**10:,.1f} KiB"
