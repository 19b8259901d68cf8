"""What a session collects of which layer."""

from __future__ import annotations

import dataclasses
from typing import Any, Optional, Tuple

from calibd import arguments
from calibd.observer import Observer
from calibd.quantize import QuantSpec
from calibd.rpc import session_pb2 as pb
from calibd.words import to_number, to_word

__all__ = ["Observer", "Rule", "SessionConfig", "Synchronous", "matches"]

MAX_WORLD_SIZE = 65536
_MAX_WINDOW = 256
_MAX_SECONDS = 315_576_000_000  # that a duration message can have


def _check_type(name: str, value: Any, expected: type, what: str) -> None:
    if value is not None and not isinstance(value, expected):
        raise arguments.refusal(name, value, f"it must be {what}, or None")


def matches(pattern: str, layer: str) -> bool:
    """Whether all of `layer` matches a glob: `*` is any run of characters, `?` is one, others stand for themselves."""
    at, star, resume = 0, -1, 0
    position = 0
    while position < len(layer):
        if at < len(pattern) and pattern[at] == "*":
            star, resume = at, position
            at += 1
        elif at < len(pattern) and pattern[at] in ("?", layer[position]):
            at += 1
            position += 1
        elif star >= 0:  # let the last star take one character more
            resume += 1
            at, position = star + 1, resume
        else:
            return False
    return all(character == "*" for character in pattern[at:])


@dataclasses.dataclass(frozen=True)
class Rule:
    """Layers whose names match `pattern` are observed so, or not at all.

    Attributes:
        pattern: glob, see `matches`.
        observer: None: such layers are skipped, and sending them is an error.
        quant_spec: how their qparams are computed when a request says nothing; None: the defaults of QuantSpec.
    """

    pattern: str
    observer: Optional[Observer] = Observer()
    quant_spec: Optional[QuantSpec] = None

    def __post_init__(self) -> None:
        """Raises InvalidArgumentError for what is of another type."""
        arguments.text("pattern", self.pattern, 'it must be a glob, such as "*.weight"')
        _check_type("observer", self.observer, Observer, 'a calibd.Observer, such as calibd.Observer("minmax")')
        _check_type("quant_spec", self.quant_spec, QuantSpec, "a calibd.QuantSpec")

    def to_proto(self) -> pb.LayerRule:
        """The message."""
        message = pb.LayerRule(pattern=self.pattern)
        if self.observer is None:
            message.skip = True
        else:
            message.observer.CopyFrom(self.observer.to_proto())
        if self.quant_spec is not None:
            message.quant_spec.CopyFrom(self.quant_spec.to_proto())
        return message

    @staticmethod
    def from_proto(message: pb.LayerRule) -> Rule:
        """The rule of a message."""
        return Rule(
            pattern=message.pattern,
            observer=Observer.from_proto(message.observer) if message.HasField("observer") else None,
            quant_spec=QuantSpec.from_proto(message.quant_spec) if message.HasField("quant_spec") else None,
        )


@dataclasses.dataclass(frozen=True)
class Synchronous:
    """Synchronous steps of a session.

    Attributes:
        world_size: ranks at first, 1 to 65536.
        straggler_policy: what becomes of a step that lacks a rank: wait, fail, or close_partial.
        deadline: of fail and close_partial, and of these alone: seconds from a step's first contribution, at least
            0.001.
        window: steps that may be open at a time, 1 to 256; 0: 16.
    """

    world_size: int = 1
    straggler_policy: str = "wait"
    deadline: Optional[float] = None
    window: int = 0

    def to_proto(self) -> pb.SynchronousOptions:
        """The message. Raises InvalidArgumentError for a policy that there is not, and numbers out of range."""
        message = pb.SynchronousOptions(
            world_size=arguments.whole_number("world_size", self.world_size, 1, MAX_WORLD_SIZE),
            straggler_policy=to_number(pb.StragglerPolicy, self.straggler_policy),
            window=arguments.whole_number("window", self.window, 0, _MAX_WINDOW),
        )
        if self.deadline is not None:
            what = "it must be a number of seconds, at least 0.001"
            if not 0 <= arguments.number("straggler deadline", self.deadline, what) <= _MAX_SECONDS:
                raise arguments.refusal("straggler deadline", self.deadline, what)
            message.deadline.FromNanoseconds(round(self.deadline * 1e9))
        return message

    @staticmethod
    def from_proto(message: pb.SynchronousOptions) -> Synchronous:
        """The options of a message."""
        policy = message.straggler_policy
        return Synchronous(
            world_size=message.world_size,
            straggler_policy=to_word(pb.StragglerPolicy, policy) if policy else "wait",
            deadline=message.deadline.ToNanoseconds() / 1e9 if message.HasField("deadline") else None,
            window=message.window,
        )


@dataclasses.dataclass(frozen=True)
class SessionConfig:
    """What a session collects. It never changes after the session was made.

    Attributes:
        rules: in order; the first whose pattern matches a layer decides, and a layer that none matches is skipped.
            None at all: a histogram of every layer, per tensor.
        mantissa_bits: resolution of every histogram, 4 to 7; 0: 7.
        synchronous: None: the session has no synchronous steps.
    """

    rules: Tuple[Rule, ...] = ()
    mantissa_bits: int = 0
    synchronous: Optional[Synchronous] = None

    def __post_init__(self) -> None:
        """Raises InvalidArgumentError for what is of another type."""
        for rule in self.rules:
            if not isinstance(rule, Rule):
                raise arguments.refusal("rules", rule, 'each must be a calibd.Rule, such as calibd.Rule("*")')
        _check_type("synchronous", self.synchronous, Synchronous, "a calibd.Synchronous")

    def observer_of(self, layer: str) -> Optional[Observer]:
        """The observer of a layer; None when the rules skip it."""
        if not self.rules:
            return Observer()
        return next((rule.observer for rule in self.rules if matches(rule.pattern, layer)), None)

    def to_proto(self) -> pb.SessionConfig:
        """The message. Raises InvalidArgumentError for words that there are not, and what the message can't have; the
        server checks the rest."""
        mantissa_bits = arguments.whole_number("mantissa_bits", self.mantissa_bits, 0, 7)
        message = pb.SessionConfig(rules=[rule.to_proto() for rule in self.rules], mantissa_bits=mantissa_bits)
        if self.synchronous is not None:
            message.synchronous.CopyFrom(self.synchronous.to_proto())
        return message

    @staticmethod
    def from_proto(message: pb.SessionConfig) -> SessionConfig:
        """The config of a message."""
        return SessionConfig(
            rules=tuple(Rule.from_proto(rule) for rule in message.rules),
            mantissa_bits=message.mantissa_bits,
            synchronous=Synchronous.from_proto(message.synchronous) if message.HasField("synchronous") else None,
        )
