"""Files as strangers and broken disks leave them: mutations of good ones."""

import copy
import json
import random
from typing import Any

NASTY: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3.5, -0.0, 1e308, -1e308, 1e-320, float("nan"), float("inf")),
    *(2**31, 2**40, 2**53 + 1, 2**63, 2**64, 10**30, -(10**30), 10**400),
    *(
        "",
        "x",
        "../x",
        "/tmp/x",
        "..",
        ".",
        "a/b",
        "a\\b",
        "~/x",
        "$HOME",
        "a\0b",
        "a\nb",
        "$\\frac{1}{0}$",
    ),
    *(
        "\ud800",
        "\u202e",
        "<script>",
        "x" * 300,
        "x" * 20_000,
        "nan",
        "inf",
        "1",
        "os:system",
        "%s%n",
        "{0}",
    ),
    *([], [[]], [1], ["x"], [None], [1, [2]], {}, {"a": 1}, {"": None}, {"format": 1}),
)
"""Values in place of others."""


def _nasty(generator: random.Random) -> Any:
    return copy.deepcopy(generator.choice(NASTY))


def _nasty_name(generator: random.Random) -> str:
    return generator.choice([value for value in NASTY if isinstance(value, str)])[:300]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where there is something to be changed in nested lists and objects."""
    found = [path]
    if len(path) > 20:
        return found
    if isinstance(value, dict):
        for key, entry in value.items():
            found += places(entry, (*path, key))
    if isinstance(value, list):
        for at in sorted({*range(len(value))[:3], *range(len(value))[-1:]}):
            found += places(value[at], (*path, at))
    return found


def mutated(value: Any, generator: random.Random) -> Any:
    """JSON with one to three things changed: replaced, removed, added, renamed, nested, repeated."""
    value = json.loads(json.dumps(value))
    for _ in range(generator.choice((1, 1, 1, 2, 3))):
        path = generator.choice(places(value))
        if not path:
            if generator.random() < 0.1:
                return _nasty(generator)
            continue
        parent = value
        for key in path[:-1]:
            parent = parent[key]
        key, way = path[-1], generator.random()
        if way < 0.55:
            parent[key] = _nasty(generator)
        elif way < 0.7:
            del parent[key]
        elif way < 0.8 and isinstance(parent, dict):
            parent[_nasty_name(generator)] = parent.pop(key)
        elif way < 0.9:
            for _ in range(generator.choice((1, 70, 3000))):
                parent[key] = [parent[key]]
        elif isinstance(parent, list):
            parent.insert(generator.randrange(len(parent) + 1), _nasty(generator))
        else:
            parent[generator.choice(("more", "__class__", "format", ""))] = _nasty(generator)
    return value


def as_json(value: Any) -> bytes:
    """JSON of a value, however deep, with numbers that other writers would not write."""
    parts: list[str] = []
    stack: list[Any] = [value]
    while stack:  # the library's own writer would stop at a depth of 1,000
        part = stack.pop()
        if isinstance(part, Raw):
            parts.append(part.text)
        elif isinstance(part, list):
            inner: list[Any] = [Raw("[")]
            for at, entry in enumerate(part):
                inner += [*([Raw(",")] if at else []), entry]
            stack += reversed([*inner, Raw("]")])
        elif isinstance(part, dict):
            inner = [Raw("{")]
            for at, (key, entry) in enumerate(part.items()):
                inner += [*([Raw(",")] if at else []), Raw(json.dumps(str(key)) + ":"), entry]
            stack += reversed([*inner, Raw("}")])
        else:
            parts.append(json.dumps(part))
    return "".join(parts).encode("utf-8", "surrogatepass")


class Raw:
    """Text that stands in JSON as it is."""

    def __init__(self, text: str) -> None:
        self.text = text


def damaged(content: bytes, generator: random.Random) -> bytes:
    """Bytes of which some are changed, gone, repeated or zero."""
    way, at = generator.randrange(8), generator.randrange(len(content) + 1)
    end = min(len(content), at + generator.choice((1, 1, 8, 100)))
    if way == 0:
        return content[:at]
    if way == 1:
        return content[:at] + content[end:]
    if way == 2:
        return content[:at] + content[at:end] + content[at:]
    if way == 3:
        return content[:at] + bytes(end - at) + content[end:]
    if way == 4:
        return content[:at] + generator.randbytes(end - at) + content[end:]
    if way == 5:
        return content + generator.randbytes(10)
    if way == 6:
        return content[:8] + generator.randbytes(8) + content[16:]
    return bytes(byte ^ (generator.random() < 3 / max(len(content), 1)) for byte in content)
