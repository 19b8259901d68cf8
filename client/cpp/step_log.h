#ifndef CALIB_CLIENT_CPP_STEP_LOG_H_
#define CALIB_CLIENT_CPP_STEP_LOG_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "absl/status/status.h"
#include "calib/v1/observe.pb.h"
#include "client/cpp/step_layers.h"
#include "client/cpp/sync_worker.h"
#include "quant/data_type.h"

namespace calib::client {

// Where what a caller gave lies in a contribution, and with it in the step's result.
struct StepLayout {
  struct Part {
    size_t position = 0;  // among the caller's layers
    uint32_t rows = 0;
  };
  std::vector<Part> parts;  // in the order of the message: layers of `statistics`, then those of `gradients`
  size_t statistics_parts = 0;
  size_t layers = 0;  // the caller's, those left out included
};

// Values of a layer with a reference histogram, kept to be counted on a grid.
struct StepValues {
  ReferenceRule rule = ReferenceRule::kMegengine;
  DataType type = DataType::kFloat32;
  std::vector<uint8_t> data;
};

// A rank's part of a step, ready to be sent.
struct EncodedStep {
  std::shared_ptr<v1::ObserveRequest> request;  // a StepContribution; the log sets step and epoch
  StepLayout layout;
  std::shared_ptr<const std::vector<StepValues>> values;  // of the reference histograms, in message order
  size_t layers_used = 0;                                 // more than the greatest layer number
  size_t bytes = 0;                                       // of all of it
};

// What became of a contribution, for whoever waits for it. Guarded by what guards the log.
struct StepTicket {
  virtual ~StepTicket() = default;

  uint64_t step = 0;
  std::vector<std::shared_ptr<const StepLayerInfo>> layers;  // the caller's
  StepLayout layout;
  bool answered = false;
  absl::Status status;  // once answered; OK: there is a result
  std::shared_ptr<const v1::StepResult> result;
};

// What one rank contributed to synchronous steps and has yet to make durable, and the rules by which it does: the
// client's half of calib/v1/observe.proto's synchronous steps, without transport, threads and clocks.
//
// A contribution goes through these states:
//   open       the step is not folded, as far as is known
//   answered   by a result, or by the refusal of one that is not kept any more; it may have to be sent again
//   forgotten  answered, and an Ack or a Welcome called the step durable
// or it is dropped: refused, or the world changed. Invariants:
//   - A step has one contribution at a time, and every contribution is for the world of the last Welcome or World;
//     older ones are kept only when their step is folded.
//   - Each is sent once a stream, in step order and within the window: after a Welcome those above its folded_step,
//     because they are lost (there may be more of them than a window), and those that are open, because their answers
//     are.
//   - What is answered is dropped in one case alone: it was lost with a server before it was durable, and the world
//     changed then. The caller has to hear of it, and of every drop, before he contributes again: news() tells.
//   - next_step() is the lowest step that has no contribution and needs one.
// Counts of reference histograms are made by the caller: a job for each StepGrids that none fits that were made before.
//
// Not thread-safe.
class StepLog {
 public:
  // `on_change` is called for a ticket when it is answered, or when there are values of it to count.
  StepLog(uint32_t rank, std::function<void(StepTicket&)> on_change) : rank_(rank), on_change_(std::move(on_change)) {}

  StepLayers& layers() { return layers_; }
  // Grows when layers are forgotten because the server refused their names, as layers_refusal() says. What was encoded
  // before is void then.
  uint64_t layers_refused() const { return layers_refused_; }
  const absl::Status& layers_refusal() const { return layers_refusal_; }

  // --- Contributions.

  uint64_t next_step() const { return next_step_; }
  // Whether `step` may be contributed to already, by the session's window.
  bool IsInWindow(uint64_t step) const { return step <= folded_ || step - folded_ <= window_; }
  // The ticket of a step that has a contribution; null without.
  std::shared_ptr<StepTicket> Find(uint64_t step) const;
  // Takes a contribution. REQUIRES: step > 0, Find(step) is null, encoded since the last change of layers_refused().
  void Add(uint64_t step, EncodedStep encoded, std::shared_ptr<StepTicket> ticket);

  // What has to be said before the next contribution: RANK_INVALID while the world lacks the rank; WORLD_EPOCH_STALE
  // after a change; with `any_error`, the error of a dropped contribution. OK else.
  absl::Status news(bool any_error) const;
  // The caller heard of it.
  void TakeNews() { news_ = absl::OkStatus(); }
  void TakeWorldNews();

  // --- The stream. After OnStreamEnd there is nothing to send until a Welcome.

  // DATA_LOSS: the server forgot what it had called durable. INTERNAL: it contradicts itself. SESSION_NOT_SYNCHRONOUS.
  // The worker has to end then.
  absl::Status OnWelcome(const v1::Welcome& welcome);
  absl::Status OnAck(const v1::Ack& ack);
  void OnWorld(const v1::World& world);
  // Takes the message's content.
  void OnResult(v1::StepResult* result);
  absl::Status OnGrids(const v1::StepGrids& grids);
  enum class AfterRefusal {
    kGoOn,
    kReopen,  // give the stream up and open another
    kEnd,     // the worker ends, with `*reason`
  };
  // `*reason` says what was refused.
  AfterRefusal OnRefusal(const v1::Refusal& refusal, absl::Status* reason);
  void OnStreamEnd();

  // The next message to send, which counts as sent from now on; null when there is none. It stays unchanged as long as
  // the stream lives.
  std::shared_ptr<const v1::ObserveRequest> NextMessage();
  bool HasMessage() const {
    return open_ && (registered_ < layers_.size() || (!due_.empty() && IsInWindow(*due_.begin())));
  }

  // --- Counting.

  struct CountJob {
    std::shared_ptr<const v1::StepGrids> grids;
    std::shared_ptr<const std::vector<StepValues>> values;
  };
  // Of the lowest step that has one; nobody else gets it.
  std::optional<CountJob> TakeCountJob();
  bool HasCountJob() const { return !to_count_.empty(); }
  // `counts` holds StepCounts for the job's grids.
  void AddCounts(const CountJob& job, std::shared_ptr<v1::ObserveRequest> counts);

  // --- The end: answers everything that is open with this error.
  void EndAll(const absl::Status& status);

  // --- Progress.
  StepWorld world() const { return world_; }
  uint64_t folded() const { return folded_; }
  uint64_t durable() const { return durable_; }
  // Whether every step that this rank leaves to earlier processes is durable, so that none of them can come back.
  bool IsSettled() const { return settled_; }
  size_t kept_bytes() const { return kept_bytes_; }
  bool empty() const { return entries_.empty(); }
  // Whether a contribution is open.
  bool HasOpen() const;

 private:
  struct Entry {
    EncodedStep encoded;
    std::shared_ptr<StepTicket> ticket;
    uint64_t epoch = 0;                          // of the world that it was made for
    bool sent = false;                           // on this stream
    std::shared_ptr<const v1::StepGrids> grids;  // asked for on this stream
    std::shared_ptr<v1::ObserveRequest> counts;  // made last, with their grids
    bool counts_due = false;
  };
  using Entries = std::map<uint64_t, Entry>;

  // Drops what is open and of another world, or was answered and is lost.
  void TakeWorld(const StepWorld& world);
  void Answer(Entry* entry, const absl::Status& status);
  // Takes the contribution away; whoever waits gets `status`.
  Entries::iterator Drop(Entries::iterator entry, const absl::Status& status);
  Entries::iterator Erase(Entries::iterator entry);
  void ForgetDurable();
  void Resend(uint64_t step, Entry* entry);
  AfterRefusal RefuseLayers(const absl::Status& status);
  void AdvanceNextStep();
  std::shared_ptr<const v1::ObserveRequest> NextRegistration();

  const uint32_t rank_;
  const std::function<void(StepTicket&)> on_change_;
  StepLayers layers_;
  size_t registered_ = 0;       // layers with a handle on this stream
  size_t layers_accepted_ = 0;  // layers whose handles the server was seen to know
  uint64_t layers_refused_ = 0;
  absl::Status layers_refusal_;

  Entries entries_;              // by step
  std::set<uint64_t> due_;       // steps with something to send
  std::set<uint64_t> to_count_;  // steps with values to count that nobody counts yet
  size_t kept_bytes_ = 0;
  uint64_t next_step_ = 1;
  absl::Status news_;

  bool open_ = false;
  bool settled_ = false;
  StepWorld world_;
  uint64_t server_epoch_ = 0;
  uint32_t window_ = 1;
  uint64_t folded_ = 0, durable_ = 0;
};

}  // namespace calib::client

#endif  // CALIB_CLIENT_CPP_STEP_LOG_H_
