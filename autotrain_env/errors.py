"""Mistakes of the user's: one base class for them all, and messages that say what would have been right."""

from __future__ import annotations

import difflib
import inspect
import math
import numbers
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

LONGEST = 300
"""Characters of a value that a message shows at most."""
LARGEST_WHOLE = 2**53
"""No whole number that somebody gives may be larger: all up to it are floats, too, and fit 64 bits."""

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


def in_brief(value: object) -> str:
    """Returns a value as a message shows it, whatever it is: long ones are cut, broken ones described."""
    try:
        text = repr(value)
    except Exception as error:  # what a stranger's object raises may be anything; so do very long numbers
        text = f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"
    return shortened(text)


def shortened(text: str) -> str:
    """Returns a text as a message shows it: long ones are cut."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text):,} characters)"


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
        raise InvalidValueError(f"{argument}={in_brief(value)} is not allowed: it must be {allowed}")


def check_whole(argument: str, value: object, least: int, most: int = LARGEST_WHOLE) -> None:
    """Raise an error unless a value is a whole number, from `least` to `most`.

    Args:
        argument: The argument's name, as the user wrote it.
        value: Value that it was given.
        least: The smallest value that is allowed.
        most: The largest one.

    Raises:
        InvalidValueError: If the value is something else.
    """
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    check(whole and value >= least, argument, value, f"a whole number, at least {least}")  # type: ignore[operator]
    check(value <= most, argument, value, f"a whole number, at most {most}")  # type: ignore[operator]


def as_number(value: object) -> float | None:
    """Returns a number as a float; `None` of all else, flags and numbers beyond floats included."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        return float(value)
    except (OverflowError, ValueError, TypeError):
        return None


def check_number(argument: str, value: object, fits: Callable[[float], bool], allowed: str) -> None:
    """Raise an error unless a value is a number that fits.

    Args:
        argument: The argument's name, as the user wrote it.
        value: Value that it was given.
        fits: Tells whether a number is allowed.
        allowed: What would have been right, in words.

    Raises:
        InvalidValueError: If it is something else than a number, or one that does not fit.
    """
    number = as_number(value)
    check(number is not None, argument, value, f"a number, {allowed}")
    check(number is not None and bool(fits(number)), argument, value, allowed)


def check_at_least_0(argument: str, value: object, most: float = math.inf) -> None:
    """Raise an error unless a value is a number, at least 0, and finite or at most `most`."""
    check_number(argument, value, lambda number: 0 <= number < math.inf, "finite, at least 0")
    check_number(argument, value, lambda number: number <= most, f"at most {most:g}")


def check_flag(argument: str, value: object) -> None:
    """Raise an `InvalidValueError` unless a value is `True` or `False`."""
    check(isinstance(value, bool), argument, value, "True or False")


def check_callable(argument: str, value: Callable[..., Any], count: int) -> None:
    """Raise an `InvalidTypeError` if a function, as far as can be seen, does not take so many arguments."""
    try:
        inspect.signature(value).bind(*[None] * count)
    except TypeError as error:
        allowed = f"a function that can be called with {count or 'no'} argument{'s' * (count != 1)}"
        raise InvalidTypeError(f"{argument}={in_brief(value)} must be {allowed}: {error}") from error
    except ValueError:  # nobody knows, of functions that are written in C
        pass


def check_name(argument: str, value: object, known: Iterable[str]) -> None:
    """Raise an error unless a value is one of some names.

    Args:
        argument: The argument's name, as the user wrote it.
        value: Value that it was given.
        known: All names that are allowed.

    Raises:
        InvalidValueError: If it is none of them.
    """
    known = tuple(known)
    if not (isinstance(value, str) and value in known):
        raise unknown_name(argument, value, known)


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
    text = value[:LONGEST].lower() if isinstance(value, str) else in_brief(value)
    nearest = difflib.get_close_matches(text, by_lower_case, n=1, cutoff=0.0)
    hint = f"; the nearest known one is {by_lower_case[nearest[0]]!r}" if nearest else ""
    allowed = ", ".join(repr(name) for name in names) or "none"
    return InvalidValueError(f"{argument}={in_brief(value)} is not a known name{hint}. Allowed: {allowed}.")


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
        raise InvalidTypeError(f"{argument}={in_brief(value)} must be {allowed}")
    if value not in known:
        raise unknown_name(argument, value, known)
    return known[value]
