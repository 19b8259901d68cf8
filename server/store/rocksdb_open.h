#ifndef CALIB_SERVER_STORE_ROCKSDB_OPEN_H_
#define CALIB_SERVER_STORE_ROCKSDB_OPEN_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "rocksdb/db.h"

namespace calib::server {

// Opens the database in this folder; `create`: makes it if there is none. DATA_LOSS: damaged, or (unless `create`) not
// there. UNAVAILABLE: held by another process, no permission, no space.
absl::StatusOr<std::unique_ptr<rocksdb::DB>> OpenRocksDb(rocksdb::Env* env, const std::string& path, bool create);

// Whether the folder has files of a database. UNAVAILABLE: can't be read.
absl::StatusOr<bool> HasRocksDbFiles(rocksdb::Env* env, const std::string& path);

// As everything here is read.
rocksdb::ReadOptions VerifiedRead();
// As everything here is written: durable on return.
rocksdb::WriteOptions SyncedWrite();

}  // namespace calib::server

#endif  // CALIB_SERVER_STORE_ROCKSDB_OPEN_H_
