"""What is collected of one layer."""

from __future__ import annotations

import dataclasses
from typing import Optional

from calibd import arguments
from calibd.quantize import Method
from calibd.rpc import session_pb2 as pb
from calibd.words import to_number, to_word

_MAX_INT32 = (1 << 31) - 1
_MAX_UINT32 = (1 << 32) - 1


@dataclasses.dataclass(frozen=True)
class Ema:
    """Parameters of an ema observer.

    Attributes:
        convention: what the weight weighs: the old value (megengine: v = v w + (1 - w) x) or the new one (pytorch:
            v = v + w (x - v)).
        weight: in [0, 1) of the old value, in (0, 1] of the new one; None: 0.9 of the old, 0.01 of the new.
    """

    convention: str = "megengine"
    weight: Optional[float] = None

    def to_proto(self) -> pb.EmaOptions:
        """The message."""
        message = pb.EmaOptions(convention=to_number(pb.EmaConvention, self.convention))
        if self.weight is not None:
            message.weight = arguments.number("weight", self.weight)
        return message

    @staticmethod
    def from_proto(message: pb.EmaOptions) -> Ema:
        """The parameters of a message."""
        return Ema(
            convention=to_word(pb.EmaConvention, message.convention),
            weight=message.weight if message.HasField("weight") else None,
        )


@dataclasses.dataclass(frozen=True)
class ReferenceHistogram:
    """Parameters of a reference_histogram observer.

    Attributes:
        rule: whose histogram: megengine, pytorch (1.13), pytorch_current (since 2.5) or mxnet.
        bins: to begin with, 2 to 65536, odd for mxnet; 0: the rule's own.
        max_bins: what it may grow to, past which a step is refused; 0: 2^24 cells, for mxnet 2^20 bins.
    """

    rule: str = "megengine"
    bins: int = 0
    max_bins: int = 0

    def to_proto(self) -> pb.ReferenceHistogramOptions:
        """The message."""
        return pb.ReferenceHistogramOptions(
            rule=to_number(pb.ReferenceRule, self.rule),
            bins=arguments.whole_number("bins", self.bins, 0, _MAX_UINT32),
            max_bins=arguments.whole_number("max_bins", self.max_bins, 0, _MAX_UINT32),
        )

    @staticmethod
    def from_proto(message: pb.ReferenceHistogramOptions) -> ReferenceHistogram:
        """The parameters of a message."""
        return ReferenceHistogram(to_word(pb.ReferenceRule, message.rule), message.bins, message.max_bins)


@dataclasses.dataclass(frozen=True)
class Learned:
    """Parameters of a learned observer. Its quantizer is that of the rule's QuantSpec, of integers.

    Attributes:
        optimizer: sgd or adam.
        learning_rate: above 0; None: 0.01 for sgd, 0.001 for adam.
        momentum: of sgd, in [0, 1); None: 0.
        beta1, beta2, epsilon: of adam; None: 0.9, 0.999, 1e-8.
        plain_gradients: take gradients as they come, not times LSQ's factor 1 / sqrt(elements x qmax).
        replicated: all ranks hold the same tensor, such as a weight, so that the factor takes the elements of one rank.
        initial: the method that reads the first statistics; None: lsq, for an affine scheme minmax.
    """

    optimizer: str = "sgd"
    learning_rate: Optional[float] = None
    momentum: Optional[float] = None
    beta1: Optional[float] = None
    beta2: Optional[float] = None
    epsilon: Optional[float] = None
    plain_gradients: bool = False
    replicated: bool = False
    initial: Optional[Method] = None

    def to_proto(self) -> pb.LearnedOptions:
        """The message."""
        message = pb.LearnedOptions(
            optimizer=to_number(pb.LearnedOptimizer, self.optimizer),
            plain_gradients=arguments.flag("plain_gradients", self.plain_gradients),
            replicated=arguments.flag("replicated", self.replicated),
        )
        for name in _LEARNED_NUMBERS:
            if getattr(self, name) is not None:
                setattr(message, name, arguments.number(name, getattr(self, name)))
        if self.initial is not None:
            message.initial.CopyFrom(self.initial.to_proto())
        return message

    @staticmethod
    def from_proto(message: pb.LearnedOptions) -> Learned:
        """The parameters of a message."""
        return Learned(
            optimizer=to_word(pb.LearnedOptimizer, message.optimizer),
            plain_gradients=message.plain_gradients,
            replicated=message.replicated,
            initial=Method.from_proto(message.initial) if message.HasField("initial") else None,
            **{name: getattr(message, name) for name in _LEARNED_NUMBERS if message.HasField(name)},
        )


_LEARNED_NUMBERS = ("learning_rate", "momentum", "beta1", "beta2", "epsilon")


@dataclasses.dataclass(frozen=True)
class Observer:
    """An observer of one layer.

    Attributes:
        kind: histogram (answers every method), minmax, ema, reference_histogram, passive (qparams are set from outside)
            or learned.
        channel_axis: observe each channel along this axis apart; negative counts from the end. None: per tensor.
        ema: of ema; None: its defaults.
        reference_histogram: of reference_histogram; None: its defaults.
        learned: of learned; None: its defaults.
    """

    kind: str = "histogram"
    channel_axis: Optional[int] = None
    ema: Optional[Ema] = None
    reference_histogram: Optional[ReferenceHistogram] = None
    learned: Optional[Learned] = None

    @property
    def depends_on_order(self) -> bool:
        """Whether what is collected depends on the order and boundaries of steps, so that they can't be merged."""
        return self.kind in ("ema", "reference_histogram")

    @property
    def collects_histogram(self) -> bool:
        """Whether what is collected has a bfloat16 histogram."""
        return self.kind in ("histogram", "learned")

    def to_proto(self) -> pb.ObserverConfig:
        """The message. Raises InvalidArgumentError for words that there are not, and what the message can't have; the
        server checks the rest."""
        for name, parameters in (("ema", Ema), ("reference_histogram", ReferenceHistogram), ("learned", Learned)):
            value = getattr(self, name)
            if value is not None and not isinstance(value, parameters):
                raise arguments.refusal(name, value, f"it must be a calibd.{parameters.__name__}, or None")
        message = pb.ObserverConfig(kind=to_number(pb.ObserverKind, self.kind))
        if self.channel_axis is not None:
            message.channel_axis = arguments.whole_number("channel_axis", self.channel_axis, -_MAX_INT32, _MAX_INT32)
        ema = self.ema or (Ema() if self.kind == "ema" else None)
        if ema is not None:
            message.ema.CopyFrom(ema.to_proto())
        reference = self.reference_histogram or (ReferenceHistogram() if self.kind == "reference_histogram" else None)
        if reference is not None:
            message.reference_histogram.CopyFrom(reference.to_proto())
        learned = self.learned or (Learned() if self.kind == "learned" else None)
        if learned is not None:
            message.learned.CopyFrom(learned.to_proto())
        return message

    @staticmethod
    def from_proto(message: pb.ObserverConfig) -> Observer:
        """The observer of a message."""
        reference = message.reference_histogram
        return Observer(
            kind=to_word(pb.ObserverKind, message.kind),
            channel_axis=message.channel_axis if message.HasField("channel_axis") else None,
            ema=Ema.from_proto(message.ema) if message.HasField("ema") else None,
            reference_histogram=(
                ReferenceHistogram.from_proto(reference) if message.HasField("reference_histogram") else None
            ),
            learned=Learned.from_proto(message.learned) if message.HasField("learned") else None,
        )
