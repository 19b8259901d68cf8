#ifndef CALIB_SERVER_RPC_WATCH_REACTOR_H_
#define CALIB_SERVER_RPC_WATCH_REACTOR_H_

#include <grpcpp/alarm.h>
#include <grpcpp/support/server_callback.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "calib/v1/calibration_service.pb.h"
#include "server/base/mutex.h"
#include "server/base/thread_pool.h"
#include "server/engine/engine.h"
#include "server/rpc/qparams_query.h"

namespace calib::server {

// One WatchQParams call: sends the session's state when it changed, at most once an interval and never before the
// message before was taken, so a slow reader misses steps and nothing queues up. A state larger than kPageBytes goes
// out as several messages in a row. Ends when the session is sealed and sent, deleted, the server drains, or the caller
// is gone.
//
// All looking and computing is done by a task on the pool; at most one is scheduled or runs. Between tasks an alarm
// waits. The object lives until OnDone and until the last callback that holds it is gone.
class WatchReactor final : public grpc::ServerWriteReactor<v1::WatchQParamsResponse>,
                           public std::enable_shared_from_this<WatchReactor> {
 public:
  // The reactor of a new call, which owns itself from then on. `engine` and `pool` must outlive the call.
  // A message has `max_message_bytes` at most, beside the session and its workers.
  static WatchReactor* Start(Engine* engine, ThreadPool* pool, const v1::WatchQParamsRequest& request,
                             size_t max_message_bytes);

  void OnWriteDone(bool ok) override ABSL_LOCKS_EXCLUDED(mutex_);
  void OnCancel() override ABSL_LOCKS_EXCLUDED(mutex_);
  void OnDone() override ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  // What the task is to do after it looked.
  struct Step {
    enum { kWait, kWrite, kFinish } next = kWait;
    absl::Status status;  // of kFinish
  };

  WatchReactor(Engine* engine, ThreadPool* pool, const v1::WatchQParamsRequest& request, size_t max_message_bytes)
      : engine_(engine), pool_(pool), max_message_bytes_(max_message_bytes), request_(request) {}

  void Schedule() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Wait(absl::Time until) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnAlarm() ABSL_LOCKS_EXCLUDED(mutex_);
  void Run() ABSL_LOCKS_EXCLUDED(mutex_);
  bool cancelled() ABSL_LOCKS_EXCLUDED(mutex_);

  // The task's parts; only the task touches the members below.
  Step Look();
  absl::Status Prepare();
  // Reads the session's state anew; whether it changed since it was sent.
  absl::StatusOr<bool> Refresh();
  // Fills response_ with the next of layers_. LIMIT_EXCEEDED when one fits into no message.
  absl::Status FillResponse();

  Engine* const engine_;
  ThreadPool* const pool_;
  const size_t max_message_bytes_;

  const v1::WatchQParamsRequest request_;
  bool prepared_ = false;
  std::string pattern_;
  QParamsQuery query_;
  absl::Duration interval_;
  std::shared_ptr<Session> session_;
  uint64_t seen_version_ = 0;  // every change up to here was sent or is in layers_
  std::string seen_progress_;  // session and workers as they were sent
  bool sealed_ = false;        // what is being sent is final
  absl::Time next_look_ = absl::InfinitePast();
  std::deque<std::string> layers_;     // to be sent
  v1::WatchQParamsResponse state_;     // session and workers to be sent
  v1::WatchQParamsResponse response_;  // belongs to gRPC while writing_

  Mutex mutex_;
  std::shared_ptr<WatchReactor> self_ ABSL_GUARDED_BY(mutex_);  // until OnDone
  bool busy_ ABSL_GUARDED_BY(mutex_) = false;                   // a task is scheduled or runs
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  // Waiting; a new one each time, since a callback must not replace the alarm that runs it.
  std::unique_ptr<grpc::Alarm> alarm_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace calib::server

#endif  // CALIB_SERVER_RPC_WATCH_REACTOR_H_
