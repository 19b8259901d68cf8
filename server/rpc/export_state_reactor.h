#ifndef CALIB_SERVER_RPC_EXPORT_STATE_REACTOR_H_
#define CALIB_SERVER_RPC_EXPORT_STATE_REACTOR_H_

#include <grpcpp/support/server_callback.h>

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
#include "server/engine/state_export.h"
#include "server/rpc/drain_listener.h"

namespace calib::server {

// One ExportState call: a chunk is made once the one before was taken, so that a slow reader costs one of them. Ends
// with the file, when the server drains, or when the caller is gone.
//
// All work is done by a task on the pool; at most one is scheduled or runs. The object lives until OnDone and until the
// last callback that holds it is gone.
class ExportStateReactor final : public grpc::ServerWriteReactor<v1::ExportStateResponse>,
                                 public DrainListener,
                                 public std::enable_shared_from_this<ExportStateReactor> {
 public:
  // The reactor of a new call, which owns itself from then on. `engine` and `pool` must outlive the call.
  static ExportStateReactor* Start(Engine* engine, ThreadPool* pool, const std::string& session);

  void OnWriteDone(bool ok) override ABSL_LOCKS_EXCLUDED(mutex_);
  void OnCancel() override ABSL_LOCKS_EXCLUDED(mutex_);
  void OnDone() override ABSL_LOCKS_EXCLUDED(mutex_);
  void OnDrain() override {}  // seen before the next chunk

 private:
  ExportStateReactor(Engine* engine, ThreadPool* pool, const std::string& session)
      : engine_(engine), pool_(pool), session_(session) {}

  void Schedule() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Run() ABSL_LOCKS_EXCLUDED(mutex_);
  // Makes the next chunk; false at the file's end.
  absl::StatusOr<bool> FillChunk();
  absl::Status Begin();

  Engine* const engine_;
  ThreadPool* const pool_;
  const std::string session_;

  // The task's.
  std::optional<uint64_t> stream_;  // as the engine counts it
  std::unique_ptr<StateExport> export_;
  bool complete_ = false;          // the export has given all
  std::string bytes_;              // of the file, not sent yet
  v1::ExportStateResponse chunk_;  // belongs to gRPC while writing_

  Mutex mutex_;
  std::shared_ptr<ExportStateReactor> self_ ABSL_GUARDED_BY(mutex_);  // until OnDone
  bool busy_ ABSL_GUARDED_BY(mutex_) = false;                         // a task is scheduled or runs
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace calib::server

#endif  // CALIB_SERVER_RPC_EXPORT_STATE_REACTOR_H_
