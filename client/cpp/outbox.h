#ifndef CALIB_CLIENT_CPP_OUTBOX_H_
#define CALIB_CLIENT_CPP_OUTBOX_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "calib/v1/observe.pb.h"
#include "client/cpp/batch.h"
#include "client/cpp/status.h"
#include "client/cpp/tally.h"
#include "quant/layer_statistics.h"

namespace calib::client {

// What a worker has yet to make durable, and the rules by which it does: the exactly-once half of an Observe stream
// that the client keeps (calib/v1/observe.proto), without transport, threads and clocks.
//
// Everything goes through these states:
//   pending    not sent. Statistics of a layer merge into one LayerStatistics; raw chunks and steps of layers whose
//              observer depends on order wait in line, and what follows says "raw chunks" for both.
//   sent       one message is one unit, numbered when it is taken for sending. It may be applied or not: it is neither
//              merged with anything nor sent again.
//   forgotten  an Ack or a Welcome called it durable.
// Only a Welcome brings what was sent back to pending: what is above its `applied`, which is then known not to be
// applied, whatever was acknowledged before (a restarted server forgets what was not durable). Statistics merge with
// what is pending, raw chunks go back to the head of the line, and numbering goes on from applied + 1.
//
// Statistics are sent in rounds: a round is everything pending, in as many messages as it takes. At most
// `rounds_in_flight` rounds are not durable at a time, so memory is bounded by that many times the session's
// statistics, and once more for what is pending. Raw chunks are bounded by the caller, who asks raw_bytes().
//
// Refused data is dropped and remembered in refusal(). When the refusal names a layer, that layer alone is dropped, and
// refused from then on; the update's other layers are sent again.
//
// Not thread-safe.
class Outbox {
 public:
  explicit Outbox(int rounds_in_flight, size_t max_batch_bytes = kMaxBatchBytes)
      : rounds_in_flight_(rounds_in_flight), writer_(max_batch_bytes) {}

  // --- Data in.

  // Takes what was observed of a layer; its observer is that of the statistics and must be the same each time.
  // LAYER_NAME_INVALID, CHANNEL_COUNT_CHANGED, COUNT_OVERFLOW, or the error that the server refused the layer with;
  // nothing is taken then.
  absl::Status Add(absl::string_view layer, const LayerStatistics& statistics);
  // Takes a chunk of a raw tensor, whose `layer` field is filled in later, of a layer with this observer and number of
  // channels. Errors as Add.
  absl::Status AddRaw(absl::string_view layer, const ObserverConfig& observer, size_t channels, v1::TensorChunk chunk);

  // Takes one step of a layer whose observer depends on order: it is sent as it is, in line with raw chunks. Nothing
  // when it has no channels. Errors as Add; REFERENCE_TOO_LARGE when it fits into no message.
  absl::Status AddStep(absl::string_view layer, const ObserverConfig& observer, const Step& step);

  // --- The stream. Between OnStreamEnd or OnRefusal and OnWelcome there is nothing to send.

  // A new stream is open. DATA_LOSS: the server forgot what it had called durable. ABORTED: another process uses the
  // worker id. INTERNAL: the server contradicts itself. The worker has to end then.
  absl::Status OnWelcome(const v1::Welcome& welcome);
  // INTERNAL: the server contradicts itself, and the worker has to end.
  absl::Status OnAck(const v1::Ack& ack);
  // Takes in that a message was refused, and says what that means; unless kWorkerEnds, open a new stream.
  RefusalMeaning OnRefusal(const v1::Refusal& refusal);
  void OnStreamEnd() { open_ = false; }

  // The next message to send, which counts as sent from now on; null when there is none. A new round of statistics
  // begins only when `statistics_due`. The message stays unchanged as long as the stream lives.
  std::shared_ptr<const v1::ObserveRequest> NextMessage(bool statistics_due);
  // Whether a new round would begin if it were due.
  bool HasRoundWaiting() const;
  uint64_t rounds_begun() const { return rounds_begun_; }

  // --- Progress.

  // Marks everything taken so far: the result can be asked for by IsApplied and IsDurable.
  uint64_t Mark() { return generation_++; }
  // Whether everything taken before the mark was applied or refused, as far as is known.
  bool IsApplied(uint64_t mark) const;
  // Whether everything taken before the mark is durable or was refused.
  bool IsDurable(uint64_t mark) const;
  // Whether there is nothing to send before some of what was sent is durable, and all of it is applied: nothing goes on
  // but by a checkpoint of the server. `statistics_due`: as for NextMessage.
  bool WaitsForDurability(bool statistics_due) const;

  // Units: last one sent, known to be applied, known to be durable.
  uint64_t sent() const { return sent_unit_; }
  uint64_t applied() const { return applied_; }
  uint64_t durable() const { return durable_; }
  // Bytes of raw chunks that are not durable.
  size_t raw_bytes() const { return raw_bytes_; }
  // Bytes of everything that is not durable. O(layers).
  size_t TotalBytes() const;
  // The first refusal, OK when there was none.
  const absl::Status& refusal() const { return refusal_; }
  // Values dropped because they were refused.
  uint64_t values_refused() const { return values_refused_; }

 private:
  struct Layer {
    std::string name;
    ObserverConfig observer;
    size_t channels = 0;  // 0: not known yet
    uint64_t values = 0;  // taken in all
    absl::Status refusal;
    uint32_t handle = 0;  // of the stream
  };
  // A message with data. `request` is final once it has a unit.
  struct Item {
    uint64_t unit = 0;
    uint64_t generation = 0;       // of its oldest data
    uint64_t round = 0;            // 0: a raw chunk
    std::vector<uint32_t> layers;  // numbers of the layers that it carries, in message order
    std::shared_ptr<v1::ObserveRequest> request;
    size_t bytes = 0;
  };
  // Statistics that are not sent.
  struct Pool {
    static constexpr uint64_t kNone = ~uint64_t{0};
    LayerMap layers;
    uint64_t generation = kNone;  // of its oldest data

    void Merge(uint32_t layer, const LayerStatistics& statistics, uint64_t from_generation);
    // Returns how many values were dropped.
    uint64_t Drop(uint32_t layer);
  };

  // Number of the layer, new if need be, after the checks of Add.
  absl::StatusOr<uint32_t> Admit(absl::string_view name, const ObserverConfig& observer, size_t channels,
                                 uint64_t values);

  std::shared_ptr<const v1::ObserveRequest> NextRegistration();
  std::shared_ptr<const v1::ObserveRequest> NextStatistics();
  std::shared_ptr<const v1::ObserveRequest> NextRaw();
  std::shared_ptr<const v1::ObserveRequest> Send(Item item);

  void ForgetDurable(uint64_t durable);
  // Brings everything sent above applied_ back to pending.
  absl::Status Requeue();
  absl::Status RequeueStatistics(const Item& item);
  void Refuse(uint32_t layer, const absl::Status& refusal);
  // The item is gone from where it was: durable, or back in pending.
  void Release(const Item& item);

  const int rounds_in_flight_;

  std::vector<Layer> layers_;  // by number
  absl::flat_hash_map<std::string, uint32_t> layer_numbers_;

  Pool pending_;                 // merges
  Pool round_;                   // rest of the round that is being sent
  bool round_open_ = false;      // some of the round is not sent
  std::deque<Item> raw_;         // not sent, oldest first
  std::deque<Item> sent_items_;  // rising units, all above durable_

  bool open_ = false;
  bool welcomed_ = false;
  size_t layers_registered_ = 0;  // layers below this number have a handle in the stream, unless refused
  uint32_t next_handle_ = 0;
  uint64_t sent_unit_ = 0, applied_ = 0, durable_ = 0;

  uint64_t generation_ = 1;
  uint64_t rounds_begun_ = 0;
  Tally generations_;  // of raw_ and sent_items_
  Tally rounds_;       // of sent_items_, and the open one
  size_t raw_bytes_ = 0;
  size_t sent_statistics_bytes_ = 0;

  absl::Status refusal_;
  uint64_t values_refused_ = 0;

  // Puts an item with one layer at the end of the line.
  void AddToLine(uint32_t layer, std::shared_ptr<v1::ObserveRequest> request);

  BatchWriter writer_;
  StatisticsReader reader_;
};

}  // namespace calib::client

#endif  // CALIB_CLIENT_CPP_OUTBOX_H_
