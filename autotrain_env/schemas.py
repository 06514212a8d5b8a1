"""Files of ours, read as if a stranger had written them: sizes, nesting and the kind of every value.

Each file has a schema, a `Kind` made of those below. What does not hold to it is an `InvalidValueError`
that names the file, the field, the value and what is allowed; a file can cause no other error, and no more
work than its size allows.
"""

import json
import math
import re
import stat
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

from autotrain_env.errors import (
    LARGEST_WHOLE,
    InvalidValueError,
    check,
    check_flag,
    check_name,
    check_number,
    check_whole,
    unknown_name,
)

Kind = Callable[[str, Any], Any]
"""Checks the value of a field, whose name in messages comes first, and returns it as it is used."""

MIB = 2**20
LARGEST_FILE = 64 * MIB
"""Bytes of a file of JSON that are read at most."""
LARGEST_LINE = 16 * MIB
"""Bytes of a line of a file with an object in each line."""
DEEPEST = 64
"""Objects and lists inside each other at most."""

_IN_NAMES = r"\w .:,;+()\[\]=%&'×–—-"
_NAME = re.compile(rf"[^\W_][{_IN_NAMES}]*")


# --- bytes ---


def read_limited(path: Path, largest: int) -> bytes:
    """Returns the content of a file, whose size is looked at before it is read.

    Args:
        path: The file.
        largest: Largest size [bytes].

    Raises:
        FileNotFoundError: If there is no such file.
        InvalidValueError: If it is no plain file, or too large.
    """
    check(stat.S_ISREG(path.stat().st_mode), "file", str(path), "a plain file")  # a pipe would block
    size = path.stat().st_size
    if size > largest:
        raise InvalidValueError(
            f"{path} is damaged: it has {size:,} bytes, more than the {largest:,} that such a file may have"
        )
    with path.open("rb") as file:
        return file.read(size)


def gunzip_limited(content: bytes, source: str, largest: int) -> bytes:
    """Returns what gzip has compressed, of at most `largest` bytes: a small file may stand for a huge one.

    Args:
        content: The compressed bytes.
        source: Where they were found, for messages.
        largest: Largest size [bytes].

    Raises:
        InvalidValueError: If they are damaged, or stand for more.
    """
    unpacker = zlib.decompressobj(wbits=31)
    try:
        found = unpacker.decompress(content, largest + 1)
    except zlib.error as error:
        raise InvalidValueError(f"{source} is damaged: {error}") from error
    if len(found) > largest:
        raise InvalidValueError(f"{source} is damaged: it stands for more than {largest:,} bytes")
    if not unpacker.eof or unpacker.unused_data:
        raise InvalidValueError(
            f"{source} is damaged: {'something follows' if unpacker.eof else 'it is cut off'}"
        )
    return found


# --- JSON ---


def parse_json(content: bytes | str, source: str) -> Any:
    """Returns what JSON stands for.

    Args:
        content: The JSON, in UTF-8.
        source: Where it was found, for messages.

    Raises:
        InvalidValueError: If it is no JSON, too deep, or has a number that is too long.
    """
    try:
        value = json.loads(content)
    except RecursionError as error:
        raise InvalidValueError(f"{source} is damaged: it is nested too deep") from error
    except (
        ValueError
    ) as error:  # UnicodeDecodeError is one, too, and that of numbers with thousands of digits
        raise InvalidValueError(f"{source} is damaged: {error}") from error
    _check_depth(value, source)
    return value


def _check_depth(value: Any, source: str) -> None:
    """Raise an error unless a value's nesting is one that all can follow that come later."""
    level = [value]
    for _ in range(DEEPEST):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return
    raise InvalidValueError(f"{source} is damaged: it is nested more than {DEEPEST} deep")


def conform(value: Any, kind: Kind, source: str, what: str = "content") -> Any:
    """Returns a value that holds to a schema, as it is used.

    Args:
        value: The value.
        kind: Its schema.
        source: Where it was found, for messages.
        what: What it is, where a message is of the whole.

    Raises:
        InvalidValueError: If it does not; the message names the place, the field and the value.
    """
    try:
        return kind(what, value)
    except (InvalidValueError, RecursionError) as error:
        raise InvalidValueError(f"{source} is damaged: {error}") from error


def read_json(path: Path, kind: Kind, largest: int = LARGEST_FILE) -> Any:
    """Returns the content of a file of JSON, checked.

    Args:
        path: The file.
        kind: Its schema.
        largest: Largest size [bytes].

    Raises:
        FileNotFoundError: If there is no such file.
        InvalidValueError: If it does not hold to the schema; the message names the file and the field.
    """
    return conform(parse_json(read_limited(path, largest), str(path)), kind, str(path))


def read_json_lines(path: Path, kind: Kind, *, whole: bool = True) -> Iterator[Any]:
    """Yields the lines of a file with JSON in each line, checked.

    Args:
        path: The file, of any size: only a line of it is held at a time.
        kind: Schema of a line.
        whole: Whether nobody writes it any more; otherwise a last line without an end, of a process that
            is still at work or was killed, is left out if it is no JSON yet.

    Raises:
        FileNotFoundError: If there is no such file.
        InvalidValueError: If a line is damaged; the message names the file, the line and the field.
    """
    check(stat.S_ISREG(path.stat().st_mode), "file", str(path), "a plain file")
    with path.open("rb") as file:
        for number in range(1, LARGEST_WHOLE):
            line = file.readline(LARGEST_LINE + 1)
            if not line:
                return
            source = f"{path}, line {number},"
            if len(line) > LARGEST_LINE:
                raise InvalidValueError(f"{source} is damaged: it has more than {LARGEST_LINE:,} bytes")
            try:
                value = parse_json(line, source)
            except InvalidValueError:
                if whole or line.endswith(b"\n"):
                    raise
                return
            yield conform(value, kind, source)


# --- tensors ---

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "BOOL": torch.bool,
}
_LARGEST_HEADER = 16 * MIB


def read_tensors(
    path: Path, largest: int, fits: Callable[[Mapping[str, torch.Tensor]], None] | None = None
) -> dict[str, torch.Tensor]:
    """Returns the tensors of a safetensors file, whose sizes are looked at before it is read.

    Args:
        path: The file.
        largest: Largest size [bytes].
        fits: Told of the tensors before they are read, by name, on the device `"meta"`; raises an error
            where they are not those that are wanted.

    Raises:
        FileNotFoundError: If there is no such file.
        InvalidValueError: If it is damaged or too large, or has tensors of a dtype that none of ours has.
    """
    check(stat.S_ISREG(path.stat().st_mode), "file", str(path), "a plain file")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or not 2 <= length <= min(_LARGEST_HEADER, size - 8):
            raise InvalidValueError(f"{path} is no safetensors file: it has no header")
        found = _described_tensors(file.read(length), size - 8 - length, str(path))
    if fits is not None:
        fits(found)
    content = read_limited(path, largest)
    try:
        return safetensors.torch.load(content)
    except Exception as error:  # also where a header of the right sizes lies about its places
        raise InvalidValueError(f"{path} is no safetensors file: {error}") from error


def _described_tensors(header: bytes, size: int, source: str) -> dict[str, torch.Tensor]:
    """Returns tensors without memory, as the header of a safetensors file describes them.

    Raises:
        InvalidValueError: If it is damaged, or they do not have `size` bytes together.
    """
    entry = structure(
        {
            "dtype": one_of(*_DTYPES),
            "shape": listed(whole(0), 16),
            "data_offsets": listed(whole(0), 2, least=2),
        }
    )
    content = parse_json(header, source)
    check(isinstance(content, dict), f"{source}: header", content, "an object")
    content.pop("__metadata__", None)
    described = conform(content, mapping(entry), source, "weights")
    total, tensors = 0, {}
    for name_, part in described.items():
        dtype, shape = _DTYPES[part["dtype"]], part["shape"]
        begin, end = part["data_offsets"]
        total += (num_bytes := math.prod(shape) * dtype.itemsize)
        if num_bytes != end - begin or end > size:
            raise InvalidValueError(f"{source} is damaged: {name_!r} has other places than its shape says")
        tensors[name_] = torch.empty(shape, dtype=dtype, device="meta")
    if total != size:
        raise InvalidValueError(f"{source} is damaged: it has {size:,} bytes of weights, not {total:,}")
    return tensors


# --- kinds of values ---


def anything(field: str, value: Any) -> Any:
    """Takes whatever JSON can hold."""
    return value


def flag(field: str, value: Any) -> bool:
    """Takes true and false."""
    check_flag(field, value)
    return value


def number(low: float = -math.inf, high: float = math.inf, *, missing: bool = False) -> Kind:
    """Returns the kind of finite numbers in [low, high]; NaN, Infinity and null stand for missing ones."""
    allowed = "finite" if (low, high) == (-math.inf, math.inf) else f"in [{low:g}, {high:g}]"

    def kind(field: str, value: Any) -> float:
        if missing and (value is None or (isinstance(value, float) and not math.isfinite(value))):
            return math.nan
        check_number(field, value, lambda given: math.isfinite(given) and low <= given <= high, allowed)
        return value

    return kind


def whole(low: int = -LARGEST_WHOLE, high: int = LARGEST_WHOLE) -> Kind:
    """Returns the kind of whole numbers from `low` to `high`."""

    def kind(field: str, value: Any) -> int:
        check_whole(field, value, low, high)
        return value

    return kind


def text(longest: int = 10_000) -> Kind:
    """Returns the kind of texts of some characters at most, none of which is a control character."""

    def kind(field: str, value: Any) -> str:
        check(isinstance(value, str), field, value, "a text")
        check(len(value) <= longest, field, value, f"a text of at most {longest:,} characters")
        plain = not re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", value)
        check(plain, field, value, "a text without control characters")
        return value

    return kind


def plain_name(field: str, value: Any) -> str:
    """Takes a name that may become part of a file's name or a table: never a path."""
    text(200)(field, value)
    fits = _NAME.fullmatch(value) is not None and ".." not in value
    check(
        fits,
        field,
        value,
        "a name of letters, digits, spaces and _ . : , ; + - ( ), a letter or digit first",
    )
    return value


def as_plain_name(given: str) -> str:
    """Returns a text as a name that `plain_name` takes: other characters become underlines."""
    plain = re.sub(rf"[^{_IN_NAMES}]", "_", given).replace("..", ". .").lstrip("_ .:,;+()[]=%&'×–—-")
    return plain[:200] or "unnamed"


def file_part(field: str, value: Any) -> str:
    """Takes a name that becomes a part of a file's name: letters and digits of ASCII, and _ . + -."""
    text(100)(field, value)
    fits = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", value) is not None and ".." not in value
    check(fits, field, value, "a name of letters, digits and _ . + -, a letter or digit first: no path")
    return value


def one_of(*known: Any) -> Kind:
    """Returns the kind of values that are among some texts or numbers."""

    def kind(field: str, value: Any) -> Any:
        if all(isinstance(entry, str) for entry in known):
            check_name(field, value, known)
        same = any(type(value) is type(entry) and value == entry for entry in known)
        check(same, field, value, " or ".join(map(repr, known)))
        return value

    return kind


def optional(inner: Kind) -> Kind:
    """Returns the kind of values that may be null."""
    return lambda field, value: None if value is None else inner(field, value)


def listed(inner: Kind, longest: int = 1_000_000, least: int = 0) -> Kind:
    """Returns the kind of lists of values of a kind, of `least` to `longest` entries."""

    def kind(field: str, value: Any) -> list[Any]:
        check(isinstance(value, list), field, value, "a list")
        check(least <= len(value) <= longest, field, value, f"a list of {least} to {longest:,} entries")
        return [inner(f"{field}[{at}]", entry) for at, entry in enumerate(value)]

    return kind


def column(dtype: type = float, *, missing: bool = False) -> Kind:
    """Returns the kind of lists of numbers, or flags, that become an array: of floats, ints or bools.

    Args:
        dtype: `float` for numbers, whole or not, `int` for whole ones, `bool` for flags, `object` for any
            of these, of which NumPy chooses the dtype.
        missing: Whether NaN may stand for a missing number.
    """
    kinds: dict[type, tuple[type, ...]] = {
        float: (int, float),
        int: (int,),
        bool: (bool,),
        object: (int, float, bool),
    }
    words = {
        float: "finite numbers",
        int: "whole numbers",
        bool: "true and false",
        object: "numbers or flags",
    }[dtype]

    def kind(field: str, value: Any) -> np.ndarray:
        check(isinstance(value, list), field, value, f"a list of {words}")
        types = {type(entry) for entry in value} - ({type(None)} if missing and dtype is float else set())
        check(types <= set(kinds[dtype]), field, value, f"a list of {words}")
        try:
            filled = [math.nan if entry is None else entry for entry in value]
            array: np.ndarray = np.array(filled, None if dtype is object else dtype)
            good = (
                array.dtype != object
                and not np.isinf(array).any()
                and (missing or not np.isnan(array).any())
            )
        except OverflowError:
            good = False
        check(good, field, value, f"a list of {words}")
        return array

    return kind


def mapping(inner: Kind, keys: Kind | None = None, longest: int = 100_000) -> Kind:
    """Returns the kind of objects whose values are of one kind, and whose names are texts, or of `keys`."""

    def kind(field: str, value: Any) -> dict[str, Any]:
        check(isinstance(value, Mapping), field, value, "an object")
        check(len(value) <= longest, field, value, f"an object of at most {longest:,} entries")
        of_key = keys or text(200)
        return {
            of_key(f"{field}'s name", key): inner(f"{field}[{key!r}]", entry)
            for key, entry in value.items()
        }

    return kind


def structure(
    needed: Mapping[str, Kind], optional: Mapping[str, Kind] | None = None, *, others: Kind | None = None
) -> Kind:
    """Returns the kind of objects with given fields.

    Args:
        needed: Kinds of the fields that must be there, by name.
        optional: Kinds of fields that may be there.
        others: Kind of all other fields; `None` where there must be none.
    """
    known = {**needed, **(optional or {})}

    def kind(field: str, value: Any) -> dict[str, Any]:
        check(isinstance(value, Mapping), field, value, "an object")
        inside = "" if field == "content" else f"{field}."
        for name_ in needed:
            check(name_ in value, f"{field}'s entries", sorted(value), f"with {name_!r} among them")
        for name_ in value:
            if name_ not in known and others is None:
                raise unknown_name(f"{field}'s entry", name_, known)
        return {
            name_: known.get(name_, others or anything)(f"{inside}{name_}", entry)
            for name_, entry in value.items()
        }

    return kind
