"""Which modules of a model are observed, by globs and types."""

from __future__ import annotations

import difflib
import reprlib
from typing import Any, Iterable, List, Optional, Sequence, Set, Tuple, Type, Union

from torch import nn

from calibd.config import matches
from calibd.errors import InvalidArgumentError
from calibd.torch import modules

#: A module type, or a glob over the names of a type and its base types: `Linear`, `*Norm*`, `my.package.Attention`.
TypePattern = Union[str, Type[nn.Module]]

Globs = Union[None, str, Sequence[str]]
TypePatterns = Union[None, TypePattern, Sequence[TypePattern]]

_MOST_NAMED = 8


class Selection:
    """What to observe of a model, as `watch` takes it."""

    def __init__(
        self, include: Globs, exclude: Globs, include_types: TypePatterns, exclude_types: TypePatterns
    ) -> None:
        """InvalidArgumentError: a pattern that is neither a string nor, among the types, a type."""
        self._include = _listed("include", include)
        self._include_types = _listed("include_types", include_types, types=True)
        self._exclude = _listed("exclude", exclude) or []
        self._exclude_types = _listed("exclude_types", exclude_types, types=True) or []

    def choose(self, model: nn.Module) -> List[Tuple[str, nn.Module]]:
        """The modules to observe, with their paths; at least one.

        InvalidArgumentError: a glob of what is included matches nothing, or no module is left.
        """
        found = list(modules.named_modules(model))
        included = self._included(found)
        chosen = [
            (path, module)
            for path, module in included
            if not self.excludes(path) and not _is_of_type(module, self._exclude_types)
        ]
        if not chosen:
            raise InvalidArgumentError(
                f"no module is left to observe: exclude={reprlib.repr(self._exclude)} and "
                f"exclude_types={reprlib.repr(self._exclude_types)} leave out all {len(included)}"
            )
        return chosen

    def excludes(self, name: str) -> bool:
        """Whether a path or layer name matches a glob of `exclude`."""
        return _matches_any(name, self._exclude)

    def _included(self, found: Sequence[Tuple[str, nn.Module]]) -> List[Tuple[str, nn.Module]]:
        if self._include is None and self._include_types is None:
            return [(path, module) for path, module in found if not any(True for _ in module.children())]
        include, include_types = self._include or [], self._include_types or []
        type_names = list(dict.fromkeys(type(module).__name__ for _, module in found))
        for glob in include:
            if not any(matches(glob, path) for path, _ in found):
                raise InvalidArgumentError(
                    f"include: no module's path matches {glob!r}; {_some(glob, [path for path, _ in found if path])}"
                )
        for pattern in include_types:
            if isinstance(pattern, str) and not any(_is_of_type(module, [pattern]) for _, module in found):
                raise InvalidArgumentError(
                    f"include_types: no module's type matches {pattern!r}; {_some(pattern, type_names)}"
                )
        included = [
            (path, module)
            for path, module in found
            if _matches_any(path, include) or _is_of_type(module, include_types)
        ]
        if not included:
            raise InvalidArgumentError(
                f"no module matches include={reprlib.repr(include)} or include_types={reprlib.repr(include_types)}; of "
                f"types, {_some('', type_names)}"
            )
        return included


def _matches_any(name: str, globs: Iterable[str]) -> bool:
    return any(matches(glob, name) for glob in globs)


def _is_of_type(module: nn.Module, patterns: Sequence[TypePattern]) -> bool:
    """Whether the type of a module, or one of its base types, matches any of the patterns."""
    names: Set[str] = set()
    for base in type(module).__mro__[:-1]:
        if base is not nn.Module:
            names.update((base.__name__, f"{base.__module__}.{base.__qualname__}"))
    return any(
        any(matches(pattern, name) for name in names) if isinstance(pattern, str) else isinstance(module, pattern)
        for pattern in patterns
    )


def _listed(parameter: str, value: Any, types: bool = False) -> Optional[List[Any]]:
    """One pattern or several as a list; None stays."""
    if value is None:
        return None
    patterns = list(value) if isinstance(value, (list, tuple, set, frozenset)) else [value]
    for pattern in patterns:
        if isinstance(pattern, str) or (types and isinstance(pattern, type)):
            continue
        wanted = "types, or globs over their names" if types else "globs over module paths, which are strings"
        instead = f"; types go to {parameter}_types" if isinstance(pattern, type) else ""
        raise InvalidArgumentError(f"{parameter} has {reprlib.repr(pattern)}: it takes {wanted}{instead}")
    return patterns


def _some(wanted: str, names: Sequence[str]) -> str:
    """Similar names, or else some of those that there are."""
    similar = difflib.get_close_matches(wanted, names, cutoff=0.5)
    if similar:
        return f"similar: {', '.join(map(repr, similar))}"
    if not names:
        return "the model has none inside"
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"there are {', '.join(map(repr, names[:_MOST_NAMED]))}{more}"
