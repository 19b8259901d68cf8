#ifndef CALIB_SERVER_RPC_IMPORT_STATE_REACTOR_H_
#define CALIB_SERVER_RPC_IMPORT_STATE_REACTOR_H_

#include <grpcpp/support/server_callback.h>

#include <cstdint>
#include <memory>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "calib/v1/calibration_service.pb.h"
#include "server/base/mutex.h"
#include "server/base/thread_pool.h"
#include "server/engine/engine.h"
#include "server/engine/state_import.h"
#include "server/rpc/drain_listener.h"

namespace calib::server {

// One ImportState call: reads the file chunk by chunk, merges it once the client has half-closed, and answers when that
// is durable. A stream that ends before that leaves nothing behind. When the server drains, a file that is not whole
// yet is given up.
//
// All work is done by a task on the pool, while no read is under way; at most one is scheduled or runs. The object
// lives until OnDone and until the last callback that holds it is gone.
class ImportStateReactor final : public grpc::ServerReadReactor<v1::ImportStateRequest>,
                                 public DrainListener,
                                 public std::enable_shared_from_this<ImportStateReactor> {
 public:
  // The reactor of a new call, which owns itself from then on. `engine` and `pool` must outlive the call.
  static ImportStateReactor* Start(Engine* engine, ThreadPool* pool, v1::ImportStateResponse* response);

  void OnReadDone(bool ok) override ABSL_LOCKS_EXCLUDED(mutex_);
  void OnCancel() override ABSL_LOCKS_EXCLUDED(mutex_);
  void OnDone() override ABSL_LOCKS_EXCLUDED(mutex_);
  void OnDrain() override ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  ImportStateReactor(Engine* engine, ThreadPool* pool, v1::ImportStateResponse* response)
      : engine_(engine), pool_(pool), response_(response) {}

  // What the stream waits for.
  enum class Stage { kReading, kWorking, kCommitting, kFinished };

  void Schedule() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The task: handles the call's begin, the message that was read, or the end, and starts what follows.
  void Run() ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status Handle();
  absl::Status Register();
  absl::Status Open(const v1::StateImport& open);
  // Merges and asks for durability; Finish follows then.
  void Merge() ABSL_LOCKS_EXCLUDED(mutex_);
  // Once.
  void End(const absl::Status& status) ABSL_LOCKS_EXCLUDED(mutex_);

  Engine* const engine_;
  ThreadPool* const pool_;
  v1::ImportStateResponse* const response_;

  // The task's.
  std::optional<uint64_t> stream_;  // as the engine counts it
  std::shared_ptr<Session> session_;
  bool skip_unmergeable_ = false;
  std::unique_ptr<StateImport> import_;
  v1::ImportStateRequest request_;  // belongs to gRPC while reading

  Mutex mutex_;
  std::shared_ptr<ImportStateReactor> self_ ABSL_GUARDED_BY(mutex_);  // until OnDone
  Stage stage_ ABSL_GUARDED_BY(mutex_) = Stage::kWorking;
  bool half_closed_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace calib::server

#endif  // CALIB_SERVER_RPC_IMPORT_STATE_REACTOR_H_
