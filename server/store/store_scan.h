#ifndef CALIB_SERVER_STORE_STORE_SCAN_H_
#define CALIB_SERVER_STORE_STORE_SCAN_H_

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "rocksdb/db.h"
#include "server/store/record.pb.h"
#include "server/store/row_sums.h"

namespace calib::server {

// What is known of the rows of a store: what a commit needs to keep the sums right.
struct StoreRows {
  struct Session {
    RowSums rows;           // its workers and layers
    uint64_t checksum = 0;  // of its own row
  };

  store::v1::StoreRow store;  // as last written
  std::map<std::string, Session, std::less<>> sessions;
};

// The messages of one session's rows as they are stored, checked and not decoded.
struct StoredSession {
  std::string name;
  store::v1::SessionRow row;
  std::vector<std::string> workers;                         // by ordinal
  std::vector<std::pair<std::string, std::string>> layers;  // name and message
};

// Reads the store's own row. DATA_LOSS: not there, or damaged; NOT_FOUND: the database is empty.
absl::StatusOr<store::v1::StoreRow> ReadStoreRow(rocksdb::DB* db);

// Reads every row: checks each, and that none is lost, stale or too many, whatever the database thinks of it. Passes
// sessions in name order to `receive`, if there is one. Errors name the session and layer: DATA_LOSS,
// FAILED_PRECONDITION (written by a newer calibd), UNAVAILABLE.
using ReceiveSession = absl::FunctionRef<void(StoredSession)>;
absl::StatusOr<StoreRows> ScanStore(rocksdb::DB* db, uint64_t seed, const ReceiveSession* receive);

}  // namespace calib::server

#endif  // CALIB_SERVER_STORE_STORE_SCAN_H_
