"""Checks of what callers give: the errors name the parameter, its value and what to give instead."""

from __future__ import annotations

import math
import numbers
import operator
import reprlib
from typing import Any

import numpy as np

from calibd.errors import InvalidArgumentError

# Greatest numbers from here on, which are of formats, are not worth telling.
_LARGE = 1 << 30


def refusal(name: str, value: Any, what: str, reason: str = "") -> InvalidArgumentError:
    """The error of a parameter: `what` says what it must be, or what to do."""
    return InvalidArgumentError(f"{name} is {reprlib.repr(value)}; {what}", reason=reason)


def text(name: str, value: Any, what: str = "it must be a str") -> str:
    """A str that can be sent. Raises InvalidArgumentError."""
    if not isinstance(value, str):
        raise refusal(name, value, what)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise refusal(name, value, "it has a surrogate, which UTF-8 can't have") from None
    return value


def whole_number(name: str, value: Any, least: int, greatest: int, reason: str = "") -> int:
    """An integer, also of NumPy, from `least` to `greatest`. Raises InvalidArgumentError."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if not least <= number <= greatest:
        if greatest < _LARGE:
            bounds = f" from {least} to {greatest}"
        else:
            bounds = "" if least < 0 else f", {least} or more"
        raise refusal(name, value, f"it must be an integer{bounds}", reason)
    return number


def number(name: str, value: Any, what: str = "it must be a number") -> float:
    """A real number, also of NumPy, but NaN. Raises InvalidArgumentError."""
    if not isinstance(value, numbers.Real) or math.isnan(value):
        raise refusal(name, value, what)
    return float(value)


def flag(name: str, value: Any) -> bool:
    """A bool, also of NumPy. Raises InvalidArgumentError."""
    if not isinstance(value, (bool, np.bool_)):
        raise refusal(name, value, "it must be True or False")
    return bool(value)
