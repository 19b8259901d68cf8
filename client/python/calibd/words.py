"""Values of protobuf enums as the words that people write: QUANT_TYPE_FP8_E4M3 is "fp8_e4m3"."""

from __future__ import annotations

import re
from typing import Any, List

from calibd.errors import InvalidArgumentError


def _prefix(enum: Any) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", enum.DESCRIPTOR.name).upper() + "_"


def words(enum: Any) -> List[str]:
    """All words of an enum, in the order of their numbers."""
    return [to_word(enum, number) for number in sorted(enum.values()) if number != 0]


def to_word(enum: Any, number: int) -> str:
    """The word of a number; of one that a newer server knows, its digits; of 0 (not set) "unspecified"."""
    if number not in enum.values():
        return str(number)
    return str(enum.Name(number))[len(_prefix(enum)) :].lower()


def to_number(enum: Any, word: str) -> Any:
    """The number of a word. Raises InvalidArgumentError, which names what there is."""
    if not isinstance(word, str) or word not in words(enum):
        what = _prefix(enum)[:-1].lower().replace("_", " ")
        raise InvalidArgumentError(f"there is no {what} {word!r}; there are {', '.join(words(enum))}")
    return enum.Value(_prefix(enum) + word.upper())
