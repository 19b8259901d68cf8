#ifndef CALIB_SERVER_STORE_ROCKSDB_STORE_H_
#define CALIB_SERVER_STORE_ROCKSDB_STORE_H_

#include <memory>
#include <string>

#include "server/base/clock.h"
#include "server/store/store.h"

namespace rocksdb {
class Env;
}  // namespace rocksdb

namespace calib::server {

struct RocksDbOptions {
  // Folder of the store; made, with those above it, if it is not there.
  std::string path;
  // Where epochs come from: one is at least the time in microseconds, so that it rises also when a backup was put back.
  const Clock* clock = Clock::System();
  // Files and threads of RocksDB. Null: the system's. Must outlive the store.
  rocksdb::Env* env = nullptr;
};

// A Store in a folder of this machine, by RocksDB. FORMAT.md has what is in it and why it can be trusted.
//
// Beside the errors that store.h names, FAILED_PRECONDITION from Open and Load: a newer calibd wrote the store. After a
// commit that failed the next one opens and reads the store anew, and goes on if it can; UNAVAILABLE until then.
std::unique_ptr<Store> NewRocksDbStore(const RocksDbOptions& options);

}  // namespace calib::server

#endif  // CALIB_SERVER_STORE_ROCKSDB_STORE_H_
