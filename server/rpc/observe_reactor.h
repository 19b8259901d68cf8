#ifndef CALIB_SERVER_RPC_OBSERVE_REACTOR_H_
#define CALIB_SERVER_RPC_OBSERVE_REACTOR_H_

#include <grpcpp/alarm.h>
#include <grpcpp/support/server_callback.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "calib/v1/observe.pb.h"
#include "server/base/mutex.h"
#include "server/base/thread_pool.h"
#include "server/engine/engine.h"
#include "server/engine/observe_stream.h"
#include "server/engine/stream_listener.h"
#include "server/rpc/read_budget.h"

namespace calib::server {

// What every Observe stream shares; must outlive the streams.
struct ObserveContext {
  Engine* engine;
  ThreadPool* pool;  // where messages are processed
  ReadBudget* budget;
  absl::Duration open_timeout = absl::Seconds(10);  // in which a stream's Open must have come
};

// One Observe call: moves messages between gRPC and an ObserveStream.
//
// Reading. While one message is processed on the pool the next is read; small ones up to kMaxQueued, so that threads
// need not take turns for each. No read is started while two or more messages of kSmallBytes together are queued, the
// process's read budget is spent, or kMaxAnswers answers wait to be written: then flow control stops the client.
//
// Writing. One message at a time: Welcome, then answers (refusals, and what is told about synchronous steps) in order,
// then the newest Ack. An Ack is due when `durable`
// moved, after kAckEvery updates, kAckDelay after the first of fewer, and at the end.
//
// Opening. A stream whose Open did not come within the open timeout ends with STREAM_NOT_OPEN.
//
// Ending. Gracefully, when the client half-closed (OK) or the server drains (SERVER_DRAINING): what was read is
// processed and becomes durable, refusals and a last Ack are written. At once, when the stream must end (fenced,
// session deleted) or is cancelled. Either way the end itself, which closes the ObserveStream and calls Finish, is a
// task on the pool, after which nothing is started any more.
//
// Everything that happens changes the state under the lock and calls Advance, which starts whatever is possible next.
// At most one task at a time is scheduled or runs. The object lives until OnDone and until the last callback that holds
// it is gone; callbacks that come late find `ending_` set.
class ObserveReactor final : public grpc::ServerBidiReactor<v1::ObserveRequest, v1::ObserveResponse>,
                             public StreamListener,
                             public std::enable_shared_from_this<ObserveReactor> {
 public:
  static constexpr size_t kMaxAnswers = 64;
  static constexpr size_t kMostAnswers = 1024;
  static constexpr size_t kMaxQueued = 16;
  static constexpr size_t kSmallBytes = 128 << 10;
  static constexpr int kAckEvery = 32;
  static constexpr absl::Duration kAckDelay = absl::Milliseconds(5);

  // The reactor of a new call, which owns itself from then on.
  static ObserveReactor* Start(const ObserveContext& context);

  // gRPC's reactions.
  void OnReadDone(bool ok) override ABSL_LOCKS_EXCLUDED(mutex_);
  void OnWriteDone(bool ok) override ABSL_LOCKS_EXCLUDED(mutex_);
  void OnCancel() override ABSL_LOCKS_EXCLUDED(mutex_);
  void OnDone() override ABSL_LOCKS_EXCLUDED(mutex_);

  // The alarm's.
  void OnOpenTimeout() ABSL_LOCKS_EXCLUDED(mutex_);

  // The engine's.
  void OnDurable() override ABSL_LOCKS_EXCLUDED(mutex_);
  void OnStep(std::shared_ptr<const v1::ObserveResponse> message) override ABSL_LOCKS_EXCLUDED(mutex_);
  void OnEnd(const absl::Status& status) override ABSL_LOCKS_EXCLUDED(mutex_);
  void OnDrain() override ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  // Messages that a task processes before it lets other streams' tasks go first.
  static constexpr int kMessagesPerTask = 8;

  struct Buffer {
    v1::ObserveRequest request;
    size_t bytes = 0;  // of the budget
  };
  enum class Closing { kNo, kHalfClosed, kDraining };
  enum class Settling { kNo, kAsked, kDone };  // whether everything processed is durable

  explicit ObserveReactor(const ObserveContext& context);

  // Starts whatever is possible: a read, a write, a task.
  void Advance() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void MaybeRead() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void MaybeWrite() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool MustProcess() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool MustSettle() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool MustFinish() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Ends the stream at once; of several reasons the first counts.
  void End(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // The task, and what it does: one of these a time.
  void Run() ABSL_LOCKS_EXCLUDED(mutex_);
  void Process() ABSL_LOCKS_EXCLUDED(mutex_);
  void Settle() ABSL_LOCKS_EXCLUDED(mutex_);
  void FinishStream() ABSL_LOCKS_EXCLUDED(mutex_);

  absl::Status OpenStream(const v1::ObserveRequest& request) ABSL_LOCKS_EXCLUDED(mutex_);
  // Sees to it that what the task has processed is acknowledged, now or soon.
  void Acknowledge(ObserveStream* stream) ABSL_LOCKS_EXCLUDED(mutex_);
  void OnAckDelay() ABSL_LOCKS_EXCLUDED(mutex_);
  // Makes this the Ack to write next, unless a newer one is known.
  void OfferAck(const v1::Ack& ack) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const ObserveContext context_;

  Mutex mutex_;
  std::shared_ptr<ObserveReactor> self_ ABSL_GUARDED_BY(mutex_);   // until OnDone
  std::shared_ptr<ObserveStream> stream_ ABSL_GUARDED_BY(mutex_);  // set once the stream is open, until OnDone
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mutex_);        // ends at once, with this
  Closing closing_ ABSL_GUARDED_BY(mutex_) = Closing::kNo;
  Settling settling_ ABSL_GUARDED_BY(mutex_) = Settling::kNo;
  bool busy_ ABSL_GUARDED_BY(mutex_) = false;    // a task is scheduled or runs
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;  // Finish was called or is about to be

  // A message's buffer goes from free_ to reading_, to queued_, where the task processes the first, and back to free_:
  // last in, first out, so that a stream of large messages keeps the memory of few.
  std::array<Buffer, kMaxQueued> buffers_;
  std::vector<Buffer*> free_ ABSL_GUARDED_BY(mutex_);
  std::deque<Buffer*> queued_ ABSL_GUARDED_BY(mutex_);
  size_t queued_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  Buffer* reading_ ABSL_GUARDED_BY(mutex_) = nullptr;
  bool awaiting_budget_ ABSL_GUARDED_BY(mutex_) = false;

  v1::ObserveResponse response_;  // being written while writing_; else the lock's holder's
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<v1::Welcome> welcome_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::shared_ptr<const v1::ObserveResponse>> answers_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<const v1::ObserveResponse> answer_ ABSL_GUARDED_BY(mutex_);  // being written
  v1::Ack ack_ ABSL_GUARDED_BY(mutex_);
  bool ack_due_ ABSL_GUARDED_BY(mutex_) = false;
  int unacknowledged_ ABSL_GUARDED_BY(mutex_) = 0;  // updates since an Ack was due
  // Waiting for kAckDelay; a new one each time, since a callback must not replace the alarm that runs it.
  std::unique_ptr<grpc::Alarm> ack_alarm_ ABSL_GUARDED_BY(mutex_);
  bool ack_alarm_set_ ABSL_GUARDED_BY(mutex_) = false;
  std::unique_ptr<grpc::Alarm> open_alarm_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace calib::server

#endif  // CALIB_SERVER_RPC_OBSERVE_REACTOR_H_
