"""What a worker has yet to make durable, and the rules by which it does: exactly-once delivery as a state machine.

The half of an Observe stream (observe.proto) that the client keeps, without transport, threads and clocks.
"""

from __future__ import annotations

import collections
from typing import Deque, Dict, List, Optional

from calibd import batch
from calibd.errors import CalibdError, DataLossError, Meaning, again, from_refusal, make_error, meaning
from calibd.layer_name import check_layer_name
from calibd.observer import Observer
from calibd.outbox_items import Item, Layer, Pool, values_of
from calibd.rpc import observe_pb2 as pb
from calibd.rpc import statistics_pb2
from calibd.statistics import TensorStatistics

_MAX_REGISTRATION_BYTES = 1 << 20
_NAME_OVERHEAD_BYTES = 3
_MAX_COUNT = 2**64 - 1


class Outbox:
    """Everything goes through these states:

    pending     not sent. Statistics of a layer merge; raw chunks and steps of layers whose observer depends on order
                wait in line, and what follows says "raw chunks" for both.
    sent        one message is one unit, numbered when it is taken for sending. It may be applied or not: it is neither
                merged with anything nor sent again.
    forgotten   an Ack or a Welcome called it durable.

    Only a Welcome brings what was sent back to pending: what is above its `applied`, which is then known not to be
    applied, whatever was acknowledged before (a restarted server forgets what was not durable). Statistics merge with
    what is pending, raw chunks go back to the head of the line, and numbering goes on from applied + 1.

    Statistics are sent in rounds: a round is everything pending, in as many messages as it takes. At most
    `rounds_in_flight` rounds are not durable at a time, so memory is bounded by that many times the session's
    statistics, and once more for what is pending. Raw chunks are bounded by the caller, who asks raw_bytes.

    Refused data is dropped and remembered in `refusal`. When the refusal names a layer, that layer alone is dropped,
    and refused from then on; the update's other layers are sent again.

    Not thread-safe.
    """

    def __init__(self, rounds_in_flight: int, max_batch_bytes: int = batch.MAX_BATCH_BYTES) -> None:
        self._rounds_in_flight = rounds_in_flight
        self._max_batch_bytes = max_batch_bytes

        #: Units: last one sent, known to be applied, known to be durable.
        self.sent = self.applied = self.durable = 0
        #: Bytes of raw chunks that are not durable.
        self.raw_bytes = 0
        #: The first refusal.
        self.refusal: Optional[CalibdError] = None
        #: Values dropped because they were refused.
        self.values_refused = 0
        self.rounds_begun = 0

        self._layers: List[Layer] = []  # by number
        self._numbers: Dict[str, int] = {}
        self._pending = Pool()  # merges
        self._round = Pool()  # rest of the round that is being sent
        self._round_open = False  # some of the round is not sent
        self._raw: Deque[Item] = collections.deque()  # not sent, oldest first
        self._sent_items: Deque[Item] = collections.deque()  # rising units, all above durable
        self._sent_statistics_bytes = 0

        self._open = False
        self._welcomed = False
        self._layers_registered = 0  # layers below this number have a handle in the stream, unless refused
        self._next_handle = 0

        self._generation = 1

    # --- Data in.

    def add(self, layer: str, observer: Observer, statistics: TensorStatistics) -> None:
        """Takes over what was observed of a layer; its observer must be the same each time.

        Raises CalibdError: LAYER_NAME_INVALID, CHANNEL_COUNT_CHANGED, COUNT_OVERFLOW, or the error that the server
        refused the layer with; nothing is taken then.
        """
        if statistics.channels == 0:
            return
        number = self._admit(layer, observer, statistics.channels, statistics.values())
        self._pending.merge(number, statistics, self._generation)

    def add_raw(self, layer: str, observer: Observer, channels: int, chunk: statistics_pb2.TensorChunk) -> None:
        """Takes a chunk of a raw tensor, whose `layer` field is filled in later. Errors as add."""
        update = pb.Update(tensor=chunk)
        self._add_to_line(self._admit(layer, observer, channels, values_of(update)), update)

    def add_step(self, layer: str, observer: Observer, ranges: TensorStatistics) -> None:
        """Takes one step of an ema layer, which is sent as it is, in line with raw chunks. Errors as add."""
        if ranges.channels == 0:
            return
        number = self._admit(layer, observer, ranges.channels, ranges.values())
        self._add_to_line(number, pb.Update(statistics=batch.encode([(0, ranges)])))

    def _admit(self, name: str, observer: Observer, channels: int, values: int) -> int:
        """Number of the layer, new if need be, after the checks of add."""
        number = self._numbers.get(name)
        if number is None:
            check_layer_name(name)
            number = self._numbers[name] = len(self._layers)
            self._layers.append(Layer(name, observer, channels, 0))
        layer = self._layers[number]
        if layer.refusal is not None:
            raise again(layer.refusal)
        if channels != layer.channels:
            raise make_error(
                "FAILED_PRECONDITION",
                f'layer "{name}" has {layer.channels} channels and was now given {channels}; '
                "a layer's channel count cannot change, use another layer name",
                "CHANNEL_COUNT_CHANGED",
                {"layer": name},
            )
        if values > _MAX_COUNT - layer.values:
            message = f'layer "{name}" would count more than 2^64 - 1 values'
            raise make_error("OUT_OF_RANGE", message, "COUNT_OVERFLOW", {"layer": name})
        layer.values += values
        return number

    def _add_to_line(self, layer: int, update: pb.Update) -> None:
        item = Item(self._generation, 0, [layer], update, update.ByteSize())
        self.raw_bytes += item.size
        self._raw.append(item)

    # --- The stream. Between end_stream or take_refusal and take_welcome there is nothing to send.

    def take_welcome(self, welcome: pb.Welcome) -> None:
        """A new stream is open. What it raises ends the worker.

        DATA_LOSS: the server forgot what it had called durable. WORKER_FENCED: another process uses the worker id.
        INTERNAL: the server contradicts itself.
        """
        if welcome.durable > welcome.applied:
            raise _contradiction(f"Welcome says applied {welcome.applied} and durable {welcome.durable}")
        if not self._welcomed:
            # An earlier process of this worker may have come this far.
            self._welcomed = True
            self.durable = welcome.durable
            self.sent = welcome.applied
        if welcome.durable < self.durable:
            raise DataLossError(
                f"the server lost units {welcome.durable + 1} to {self.durable} of this worker, which it had called "
                "durable; the session's results lack them: collect again in a new session"
            )
        if welcome.applied > self.sent:
            raise make_error(
                "ABORTED",
                f"the server has applied unit {welcome.applied} of this worker, which has sent {self.sent}; "
                "another process uses its worker id: give each its own",
                "WORKER_FENCED",
            )
        self.applied = welcome.applied
        self._forget_durable(welcome.durable)
        self._requeue()
        self.sent = self.applied
        self._layers_registered = 0
        self._next_handle = 0
        self._open = True

    def take_ack(self, ack: pb.Ack) -> None:
        """Raises CalibdError (INTERNAL) when the server contradicts itself: the worker has to end."""
        if (
            ack.durable > ack.applied
            or ack.applied > self.sent
            or ack.applied < self.applied
            or ack.durable < self.durable
        ):
            raise _contradiction(
                f"Ack says applied {ack.applied} and durable {ack.durable} after applied {self.applied} and durable "
                f"{self.durable}, with {self.sent} sent"
            )
        self.applied = ack.applied
        self._forget_durable(ack.durable)

    def take_refusal(self, refusal: pb.Refusal) -> Meaning:
        """Takes in that a message was refused, and says what it means; unless WORKER_ENDS, open a new stream."""
        self._open = False
        error = from_refusal(refusal)
        what = meaning(error)
        if what is not Meaning.DATA_REFUSED:
            return what
        layer = self._numbers.get(error.metadata.get("layer", ""))
        if refusal.first == 0:
            if layer is None:
                return Meaning.WORKER_ENDS  # no telling which names to go on with
            self._refuse(layer, error)
            return what
        item = next((item for item in self._sent_items if item.unit == refusal.first), None)
        if item is None or item.unit <= self.applied:
            return Meaning.WORKER_ENDS
        if len(item.layers) == 1:
            layer = item.layers[0]
        if layer in item.layers:
            # The item's other layers come back to pending with the next Welcome.
            self._refuse(layer, error)
            return what
        self.refusal = self.refusal or error
        self.values_refused += values_of(item.update)
        self._release(item)
        self._sent_items.remove(item)
        return what

    def end_stream(self) -> None:
        """The stream is over."""
        self._open = False

    def next_message(self, statistics_due: bool) -> Optional[pb.ObserveRequest]:
        """The next message to send, which counts as sent from now on; None when there is none.

        A new round of statistics begins only when `statistics_due`.
        """
        if not self._open:
            return None
        registration = self._next_registration()
        if registration is not None:
            return registration
        if statistics_due and self.has_round_waiting():
            self._pending, self._round = self._round, self._pending
            self._round_open = True
            self.rounds_begun += 1
        if self._round_open:
            return self._next_statistics()
        if self._raw:
            return self._send(self._raw.popleft())
        return None

    def has_round_waiting(self) -> bool:
        """Whether a new round would begin if it were due."""
        in_flight = {item.round for item in self._sent_items if item.round}
        return not self._round_open and bool(self._pending.layers) and len(in_flight) < self._rounds_in_flight

    def _next_registration(self) -> Optional[pb.ObserveRequest]:
        request = pb.ObserveRequest()
        registration = request.register_layers
        registration.first_handle = self._next_handle
        size = 0
        # Handles rise with layer numbers, so a batch in number order is one in handle order.
        while self._layers_registered < len(self._layers) and size < _MAX_REGISTRATION_BYTES:
            layer = self._layers[self._layers_registered]
            self._layers_registered += 1
            if layer.refusal is not None:
                continue
            registration.name.append(layer.name)
            layer.handle = self._next_handle
            self._next_handle += 1
            size += len(layer.name.encode()) + _NAME_OVERHEAD_BYTES
        return request if registration.name else None

    def _next_statistics(self) -> pb.ObserveRequest:
        generation = self._round.generation
        assert generation is not None  # the round is not empty
        taken = batch.take(self._round.layers, self._max_batch_bytes)
        update = pb.Update(statistics=batch.encode(taken))
        item = Item(generation, self.rounds_begun, [number for number, _ in taken], update, update.ByteSize())
        if not self._round.layers:
            self._round = Pool()
            self._round_open = False
        self._sent_statistics_bytes += item.size
        return self._send(item)

    def _send(self, item: Item) -> pb.ObserveRequest:
        self.sent += 1
        item.unit = self.sent
        # A message of its own: the transport may still read that of an earlier stream.
        request = pb.ObserveRequest()
        request.update.CopyFrom(item.update)
        request.update.first = request.update.last = item.unit
        handles = [self._layers[number].handle for number in item.layers]
        if request.update.HasField("tensor"):
            request.update.tensor.layer = handles[0]
        else:
            request.update.statistics.layer[:] = handles
        self._sent_items.append(item)
        return request

    def _refuse(self, number: int, refusal: CalibdError) -> None:
        self.refusal = self.refusal or refusal
        self._layers[number].refusal = refusal
        self.values_refused += self._pending.drop(number) + self._round.drop(number)
        kept: Deque[Item] = collections.deque()
        for item in self._raw:
            if item.layers[0] != number:
                kept.append(item)
                continue
            self.values_refused += values_of(item.update)
            self._release(item)
        self._raw = kept

    def _release(self, item: Item) -> None:
        """The item is gone from where it was: durable, or back in pending."""
        if item.round == 0:
            self.raw_bytes -= item.size
        else:
            self._sent_statistics_bytes -= item.size

    def _forget_durable(self, durable: int) -> None:
        self.durable = durable
        while self._sent_items and self._sent_items[0].unit <= durable:
            self._release(self._sent_items.popleft())

    def _requeue(self) -> None:
        """Brings everything sent above applied back to pending."""
        while self._sent_items and self._sent_items[-1].unit > self.applied:
            item = self._sent_items.pop()
            self._release(item)
            if item.round != 0:
                self._requeue_statistics(item)
            elif self._layers[item.layers[0]].refusal is None:
                self.raw_bytes += item.size
                self._raw.appendleft(item)
            else:
                self.values_refused += values_of(item.update)
        for number, statistics in self._round.layers.items():
            assert self._round.generation is not None
            self._pending.merge(number, statistics, self._round.generation)
        # The round is over, whether all of it was sent or not.
        self._round = Pool()
        self._round_open = False

    def _requeue_statistics(self, item: Item) -> None:
        observers = [self._layers[number].observer for number in item.layers]
        decoded = batch.decode(item.update.statistics, lambda place: observers[place].collects_histogram)
        for number, (_, statistics) in zip(item.layers, decoded):
            if self._layers[number].refusal is None:
                self._pending.merge(number, statistics, item.generation)
            else:
                self.values_refused += statistics.values()

    # --- Progress.

    def mark(self) -> int:
        """Marks everything taken so far, for is_applied and is_durable."""
        self._generation += 1
        return self._generation - 1

    def is_applied(self, mark: int) -> bool:
        """Whether everything taken before the mark was applied or refused, as far as is known."""
        return self._is_sent(mark) and all(
            item.generation > mark for item in self._sent_items if item.unit > self.applied
        )

    def is_durable(self, mark: int) -> bool:
        """Whether everything taken before the mark is durable or was refused."""
        return self._is_sent(mark) and all(item.generation > mark for item in self._sent_items)

    def waits_for_durability(self, statistics_due: bool) -> bool:
        """Whether there is nothing to send before some of what was sent is durable, and all of it is applied: nothing
        goes on but by a checkpoint of the server. `statistics_due`: as for next_message."""
        has_data_to_send = bool(self._raw) or self._round_open or (statistics_due and self.has_round_waiting())
        return not has_data_to_send and self.durable < self.applied == self.sent

    def _is_sent(self, mark: int) -> bool:
        pools = self._pending.is_behind(mark) and self._round.is_behind(mark)
        return pools and all(item.generation > mark for item in self._raw)

    def total_bytes(self) -> int:
        """Bytes of everything that is not durable."""
        pools = [*self._pending.layers.values(), *self._round.layers.values()]
        return self.raw_bytes + self._sent_statistics_bytes + sum(statistics.nbytes for statistics in pools)


def _contradiction(what: str) -> CalibdError:
    return make_error("INTERNAL", f"the server contradicts itself, which is a bug in it: {what}")
