#ifndef CALIB_SERVER_RPC_EXPORT_REACTOR_H_
#define CALIB_SERVER_RPC_EXPORT_REACTOR_H_

#include <grpcpp/support/server_callback.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "calib/v1/calibration_service.pb.h"
#include "server/base/mutex.h"
#include "server/base/thread_pool.h"
#include "server/engine/engine.h"
#include "server/rpc/drain_listener.h"
#include "server/rpc/export_file.h"
#include "server/rpc/export_memory.h"
#include "server/rpc/export_query.h"

namespace calib::server {

// One Export call: reads the options and the input, makes the file once the client has half-closed, and sends it, a
// chunk once the one before was taken. When the server drains, a file that is not whole yet at the client is given up.
//
// All work is done by a task on the pool; at most one is scheduled or runs, and at most one read or write is under way.
// The object lives until OnDone and until the last callback that holds it is gone.
class ExportReactor final : public grpc::ServerBidiReactor<v1::ExportRequest, v1::ExportResponse>,
                            public DrainListener,
                            public std::enable_shared_from_this<ExportReactor> {
 public:
  // The reactor of a new call, which owns itself from then on. `engine` and `pool` must outlive the call.
  static ExportReactor* Start(Engine* engine, ThreadPool* pool, const ExportLimits& limits);

  void OnReadDone(bool ok) override ABSL_LOCKS_EXCLUDED(mutex_);
  void OnWriteDone(bool ok) override ABSL_LOCKS_EXCLUDED(mutex_);
  void OnCancel() override ABSL_LOCKS_EXCLUDED(mutex_);
  void OnDone() override ABSL_LOCKS_EXCLUDED(mutex_);
  void OnDrain() override ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  ExportReactor(Engine* engine, ThreadPool* pool, const ExportLimits& limits)
      : engine_(engine), pool_(pool), memory_(limits, &engine->counters()) {}

  // What the stream waits for.
  enum class Stage { kReading, kWriting, kWorking, kFinished };

  void Schedule() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The task: handles what came, and starts what follows.
  void Run() ABSL_LOCKS_EXCLUDED(mutex_);
  // The call's begin; a message that was read; the client's half-close.
  absl::Status Register();
  absl::Status Handle();
  absl::Status Make();
  // Puts what is sent next into response_; false at the end.
  bool FillResponse();
  // Why the call ends early, if it does: the client is gone, or the server drains.
  absl::Status Ended() ABSL_LOCKS_EXCLUDED(mutex_);
  // Once.
  void End(const absl::Status& status) ABSL_LOCKS_EXCLUDED(mutex_);

  Engine* const engine_;
  ThreadPool* const pool_;

  // The task's.
  std::optional<uint64_t> stream_;  // as the engine counts it
  ExportMemory memory_;
  std::optional<ExportQuery> query_;
  std::string input_;
  std::optional<ExportFile> file_;
  size_t parts_sent_ = 0;        // of the summary
  size_t bytes_sent_ = 0;        // of the file
  v1::ExportRequest request_;    // belongs to gRPC while reading
  v1::ExportResponse response_;  // belongs to gRPC while writing

  Mutex mutex_;
  std::shared_ptr<ExportReactor> self_ ABSL_GUARDED_BY(mutex_);  // until OnDone
  Stage stage_ ABSL_GUARDED_BY(mutex_) = Stage::kWorking;
  bool half_closed_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace calib::server

#endif  // CALIB_SERVER_RPC_EXPORT_REACTOR_H_
