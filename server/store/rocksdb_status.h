#ifndef CALIB_SERVER_STORE_ROCKSDB_STATUS_H_
#define CALIB_SERVER_STORE_ROCKSDB_STATUS_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "rocksdb/status.h"

namespace calib::server {

// What to do about a damaged store, for the end of a message.
inline constexpr absl::string_view kRestore = "put a backup of the whole folder in its place";

// A status of RocksDB or its files as one line: "`what` `path`: why; what to do". DATA_LOSS: damaged, or a file is
// gone. UNAVAILABLE: no space, no permission, held by another process, failing disk. OK stays OK.
absl::Status FromRocksDb(const rocksdb::Status& status, absl::string_view what, absl::string_view path);

}  // namespace calib::server

#endif  // CALIB_SERVER_STORE_ROCKSDB_STATUS_H_
