"""Mutations: valid bytes or values and a random generator in; the same, spoilt somewhere, out."""

from __future__ import annotations

import copy
from random import Random
from typing import Any


class Raw(str):
    """A value that TOML writes as it stands: dates, hexadecimal numbers, rubbish."""


ODD_TEXTS = (
    *("", " ", "\t", "a\nb", "a\r\nb", "\r", "\x00", "\x07", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x9b31m", "\x7f"),
    *(
        "\u202egnp.exe",
        "\u2028",
        "\u2029",
        "\u2066x",
        "\ufeff",
        "e\u0301" * 40,
        "𝔘𝔫𝔦",
        "한국어",
        "\u200d",
        "\ue000",
        "\U0010ffff",
    ),
    *("<script>alert(1)</script>", "</pre><img src=x onerror=alert(1)>", "<!-- x", "]]>", "&amp;", "{{ 7 * 7 }}", "{% raw %}"),
    *("=cmd|' /C calc'!A0", "+1+1", "-1+1", "@SUM(1)", "\t=1", "%s%n", "{0}", "$x$", "$\\frac{$", "\\", "'", '"', '"""', "`x`"),
    *(
        "```\n# x",
        "[a](javascript:alert(1))",
        "![x](http://127.0.0.1:9/x.png)",
        "| a | b |",
        "# x",
        "1. x",
        "- x",
        "http://a.b",
    ),
    *(
        "~nobody-here/x",
        "../../../etc/passwd",
        "/dev/zero",
        "/dev/null",
        "/",
        ".",
        "..",
        "con",
        "x" * 300,
        "x" * 5000,
        "a/" * 3000,
    ),
    *(
        "nan",
        "inf",
        "1e999",
        "true",
        "null",
        "none",
        "9" * 5000,
        "0",
        "-1",
        "a.b.c",
        ".",
        "..a",
        "a..b",
        "x=y",
        "[1, 2",
        "{a = 1}",
    ),
    *(
        "python:canary:Part",
        "python:canary",
        "python:os:system",
        "python:math:pi.x",
        "python::",
        "python:a..b:c",
        "python:sys:path",
    ),
    *("npz:", "folder:", "npz:/dev/zero", "npz:a\x00b", "npz:~nobody-here/x", "folder:~nobody-here", "folder:/dev", "digits"),
    *("relu", "batch", "group", "convnet", "mlp", "adam", "model.activation", "model.depth", "accuracy", "higher", "best"),
)
ODD_NUMBERS: tuple[Any, ...] = (
    *(0, -1, 1, 2, 3, 7, 64, 65_537, 10**6, 10**6 + 1, 2**31 - 1, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**30, 10**400),
    *(-0.0, 0.1, 0.5, 1.0, 1.5, 5e-324, 1e308, -1e308, float("nan"), float("inf"), float("-inf")),
)
ODD_RAW = (
    *map(
        Raw, ("2020-01-01", "2020-01-01T00:00:00Z", "07:30:00", "0x" + "f" * 6000, "1_000", "0o7", "1e400", "'''x'''", "+nan")
    ),
    Raw("[" * 3000 + "]" * 3000),
    Raw("{ " + "a." * 3000 + "a = 1 }"),
    Raw("{ a = 1, b = " + "1" * 4000 + " }"),
)


def odd_value(rng: Random, raw: bool = True) -> Any:
    """Something that stands in no valid file, or in another place of it; with ``raw``, TOML's own too."""
    kind = rng.randrange(12)
    if kind < 4:
        return rng.choice(ODD_TEXTS)
    if kind < 7:
        return rng.choice(ODD_NUMBERS)
    if kind == 7:
        return rng.choice(ODD_RAW) if raw else rng.choice(ODD_NUMBERS)
    if kind == 8:
        return rng.choice(([], {}, [[]], [{}], [1, "a", True], {"": ""}, {"name": "relu"}, {"when": 1}, {"levels": []}, [None]))
    if kind == 9:
        value: Any = rng.choice(ODD_NUMBERS)
        for _ in range(rng.choice((3, 40, 100))):
            value = [value] if rng.random() < 0.5 else {rng.choice("ab"): value}
        return value
    if kind == 10:
        return [rng.choice(ODD_NUMBERS) for _ in range(rng.choice((1, 2, 50, 2000)))]
    return rng.random() < 0.5


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a tree of lists and dicts."""
    found, waiting = [], [value]
    while waiting:
        node = waiting.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        for key in keys:
            found.append((node, key))
            waiting.append(node[key])
    return found


def spoilt_value(rng: Random, value: Any, raw: bool = True, most: int = 3) -> Any:
    """A copy of a tree with one to ``most`` places changed, left out, doubled, renamed or swapped."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, most)):
        if not (there := places(value)):
            return odd_value(rng, raw)
        node, key = rng.choice(there)
        kind = rng.randrange(8)
        if kind < 4:
            node[key] = odd_value(rng, raw)
        elif kind == 4:
            del node[key]
        elif kind == 5:
            other, other_key = rng.choice(there)
            if other_key in (other if isinstance(other, dict) else range(len(other))):
                node[key] = copy.deepcopy(other[other_key])
        elif kind == 6 and isinstance(node, dict):
            node[rng.choice((*ODD_TEXTS, *(str(name) for _, name in there)))] = node.pop(key)
        elif isinstance(node, list):
            node.insert(rng.randrange(len(node) + 1), copy.deepcopy(node[key]))
        elif isinstance(node[key], list):
            node[key] = node[key] * rng.choice((2, 50))
    return value


def toml(value: Any) -> str:
    """A tree as one TOML value."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(_letter(letter) for letter in value) + '"'
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{toml(str(key))} = {toml(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return str(value)


def _letter(letter: str) -> str:
    return f"\\u{ord(letter):04x}" if letter < " " or letter in '"\\\x7f' else letter


def spoilt_bytes(rng: Random, content: bytes, most: int = 4) -> bytes:
    """Bytes with one to ``most`` flips, cuts, insertions, repetitions, splices or numbers swapped."""
    data = bytearray(content)
    for _ in range(rng.randint(1, most)):
        if not data:
            return rng.choice((b"", b"\x00", b"\n", rng.randbytes(rng.randrange(200))))
        at = rng.randrange(len(data))
        end = min(len(data), at + rng.choice((1, 1, 4, 16, 200)))
        kind = rng.randrange(10)
        if kind < 2:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            data[at:end] = rng.randbytes(end - at)
        elif kind == 3:
            del data[at:end]
        elif kind == 4:
            del data[at:]
        elif kind == 5:
            data[at:at] = rng.choice(ODD_TEXTS).encode("utf-8", "surrogatepass")
        elif kind == 6:
            data[at:at] = data[at:end] * rng.choice((1, 2, 100))
        elif kind == 7:
            other = rng.randrange(len(data))
            data[at:end] = data[other : other + (end - at)]
        elif kind == 8:
            data[at:end] = rng.choice((b"\xff", b"\x00", b"\x7f", b"\x80")) * (end - at)
        else:
            digits = [place for place, byte in enumerate(data) if 48 <= byte <= 57]
            if digits:
                place = rng.choice(digits)
                data[place : place + 1] = str(rng.choice(ODD_NUMBERS)).encode()
    return bytes(data)


def spoilt_lines(rng: Random, text: str) -> str:
    """A text with lines left out, doubled, moved or joined."""
    lines = text.split("\n")
    for _ in range(rng.randint(1, 3)):
        at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        kind = rng.randrange(5)
        if kind == 0:
            lines.insert(other, lines[at])
        elif kind == 1 and len(lines) > 1:
            del lines[at]
        elif kind == 2:
            lines[at], lines[other] = lines[other], lines[at]
        elif kind == 3:
            key, equals, _ = lines[at].partition("=")
            lines[at] = f"{key}= {toml(odd_value(rng))}" if equals else f"[{rng.choice(ODD_TEXTS)}]"
        else:
            lines[at] = lines[at] + lines[other]
    return rng.choice(("\n", "\n", "\n", "\r\n")).join(lines)
