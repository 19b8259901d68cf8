#ifndef CALIB_SERVER_STORE_SESSION_DECODER_H_
#define CALIB_SERVER_STORE_SESSION_DECODER_H_

#include <deque>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "server/base/mutex.h"
#include "server/base/thread_pool.h"
#include "server/store/store.h"
#include "server/store/store_scan.h"

namespace calib::server {

// Decodes the sessions of a store on several threads while it is read on another: what takes time in opening a large
// store is to fill the memory of its histograms. For one thread.
class SessionDecoder {
 public:
  explicit SessionDecoder(int threads);
  ~SessionDecoder();

  // Takes a session in. Blocks while too many wait to be decoded.
  void Add(StoredSession session) ABSL_LOCKS_EXCLUDED(mutex_);
  // All, in the order in which they came. DATA_LOSS names session and layer of the first that can't be.
  absl::StatusOr<std::vector<SessionCheckpoint>> Finish() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  const size_t most_waiting_;
  std::deque<absl::StatusOr<SessionCheckpoint>> decoded_;  // each written by its task alone

  Mutex mutex_;
  CondVar changed_;
  size_t waiting_ ABSL_GUARDED_BY(mutex_) = 0;

  std::unique_ptr<ThreadPool> pool_;  // ends before what its tasks use
};

}  // namespace calib::server

#endif  // CALIB_SERVER_STORE_SESSION_DECODER_H_
