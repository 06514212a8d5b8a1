"""Mistakes of the user's: one base class for them all, and messages that say what would have been right."""

from __future__ import annotations

import difflib
import numbers
import sys
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

_INSIDE = ("autotrain_env", "agents", "gymnasium", "contextlib")


class UserError(Exception):
    """A mistake of the user's: its message says what is wrong, and what would have been right.

    Programs may print the message alone; every other exception is a mistake of the program's.
    """


class InvalidValueError(UserError, ValueError):
    """An argument, or a file's content, has a value that is not allowed."""


class InvalidTypeError(UserError, TypeError):
    """An argument is of a kind that is not allowed, or there is no argument of that name."""


class MissingPackageError(UserError, ImportError):
    """A package is not installed that only some uses need."""


def warn(message: str) -> None:
    """Warn the user, at the line outside of this package, and of Gymnasium, that led here."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _INSIDE:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)


def check(condition: bool, argument: str, value: object, allowed: str) -> None:
    """Raise an error that names the argument, its value and what is allowed, unless all is well.

    Args:
        condition: Whether the value is allowed.
        argument: The argument's name, as the user wrote it.
        value: Value that it was given.
        allowed: What would have been right, in words.

    Raises:
        InvalidValueError: If `condition` is false.
    """
    if not condition:
        raise InvalidValueError(f"{argument}={value!r} is not allowed: it must be {allowed}")


def check_whole(argument: str, value: object, least: int) -> None:
    """Raise an error unless a value is a whole number, at least `least`.

    Args:
        argument: The argument's name, as the user wrote it.
        value: Value that it was given.
        least: The smallest value that is allowed.

    Raises:
        InvalidValueError: If the value is something else.
    """
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    check(whole and value >= least, argument, value, f"a whole number, at least {least}")  # type: ignore[operator]


def unknown_name(argument: str, value: object, known: Iterable[str]) -> InvalidValueError:
    """Make the error for a name that is not one of those known.

    Args:
        argument: Name of the argument, as the user wrote it.
        value: The name that it was given.
        known: Every name that would have been right.

    Returns:
        An error, for the caller to raise, with the argument, the value, the nearest known name and
        all known names.
    """
    names = sorted(known)
    by_lower_case = {name.lower(): name for name in names}
    nearest = difflib.get_close_matches(str(value).lower(), by_lower_case, n=1, cutoff=0.0)
    hint = f"; the nearest known one is {by_lower_case[nearest[0]]!r}" if nearest else ""
    allowed = ", ".join(repr(name) for name in names) or "none"
    return InvalidValueError(f"{argument}={value!r} is not a known name{hint}. Allowed: {allowed}.")


def unknown_argument(
    name: str, known: Iterable[str], others: Mapping[str, str], page: str
) -> InvalidTypeError:
    """Make the error for a keyword that is not one of those known, which may be many.

    Args:
        name: The keyword.
        known: Every keyword that would have been right.
        others: What users mean by words that are like none of them, or like the wrong ones.
        page: Where all of them are described.

    Returns:
        An error, for the caller to raise, with what is near. It begins as Python's own message does, which
        torchrl reads to try again without the argument.
    """
    lower, names = name.lower(), sorted(known)
    if lower in others:
        near = [others[lower]]
    elif close := difflib.get_close_matches(lower, names, n=1, cutoff=0.9):
        near = [repr(close[0])]
    else:
        words = set(lower.split("_"))
        found = [other for other in names if words <= set(other.split("_"))]
        found += difflib.get_close_matches(lower, names, n=3, cutoff=0.7)
        near = [repr(other) for other in list(dict.fromkeys(found))[:3]]
    hint = f"; did you mean {' or '.join(near)}?" if near else "."
    return InvalidTypeError(f"unexpected keyword argument {name!r}{hint} All are described in {page}.")


def look_up(
    argument: str,
    value: Any,
    kind: type[Any] | tuple[type[Any], ...],
    known: Mapping[str, Any],
    allowed: str,
) -> Any:
    """Returns what a name stands for, or a value of the right kind as it is.

    Args:
        argument: The argument's name, as the user wrote it.
        value: What it was given.
        kind: The right kind, or several.
        known: What every name stands for.
        allowed: What may be given, in words, such as `"a name or a Distribution"`.

    Raises:
        InvalidTypeError: If it is neither a name nor of that kind.
        InvalidValueError: If the name is unknown.
    """
    if isinstance(value, kind):
        return value
    if not isinstance(value, str):
        raise InvalidTypeError(f"{argument}={value!r} must be {allowed}")
    if value not in known:
        raise unknown_name(argument, value, known)
    return known[value]
