#ifndef CALIB_SERVER_STORE_FOLDER_USAGE_H_
#define CALIB_SERVER_STORE_FOLDER_USAGE_H_

#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/base/clock.h"
#include "server/base/mutex.h"
#include "server/store/store.h"

namespace rocksdb {
class Env;
}  // namespace rocksdb

namespace calib::server {

// Makes a folder, with those above it, if it is not there. UNAVAILABLE.
absl::Status MakeFolders(const std::string& path);

// What the files of a folder take. Thread-safe.
class FolderUsage {
 public:
  FolderUsage(rocksdb::Env* env, const Clock* clock, std::string path);

  // As of a second ago at most. All 0 while there is no such folder.
  StoreUsage Get() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  rocksdb::Env* const env_;
  const Clock* const clock_;
  const std::string path_;

  mutable Mutex mutex_;
  mutable absl::Duration next_ ABSL_GUARDED_BY(mutex_) = -absl::InfiniteDuration();  // on the clock's Elapsed
  mutable StoreUsage usage_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace calib::server

#endif  // CALIB_SERVER_STORE_FOLDER_USAGE_H_
