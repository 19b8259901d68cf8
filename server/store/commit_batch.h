#ifndef CALIB_SERVER_STORE_COMMIT_BATCH_H_
#define CALIB_SERVER_STORE_COMMIT_BATCH_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "rocksdb/db.h"
#include "rocksdb/write_batch.h"
#include "server/store/record.pb.h"
#include "server/store/store.h"
#include "server/store/store_scan.h"

namespace calib::server {

// The rows of one commit, encoded in two moves: workers and layers, which take the time, without knowing what is
// stored; then, in AddSessions or RemoveSession and AddStore, the rows that hold sums. Not thread-safe.
class CommitBatch {
 public:
  CommitBatch() = default;
  // Takes in checkpoints of different sessions. INVALID_ARGUMENT, RESOURCE_EXHAUSTED: one that no store can keep.
  static absl::StatusOr<CommitBatch> Encode(const std::vector<SessionCheckpoint>& checkpoints);

  // Adds the session rows to the batch, and brings `rows` to what is stored once it is written. INVALID_ARGUMENT:
  // worker ordinals leave a gap; `rows` is of no use then.
  absl::Status AddSessions(uint64_t seed, StoreRows* rows);
  // Deletes every row of a session that is stored; in the batch and in `rows`.
  absl::Status RemoveSession(rocksdb::DB* db, const std::string& name, StoreRows* rows);
  // Adds the store's row, last.
  absl::Status AddStore(const store::v1::StoreRow& store);

  rocksdb::WriteBatch* batch() { return &batch_; }

 private:
  struct Session {
    std::string name;
    store::v1::SessionRow row;                             // without its sums
    std::vector<std::pair<uint32_t, uint64_t>> workers;    // ordinal and checksum, rising
    std::vector<std::pair<std::string, uint64_t>> layers;  // name and checksum
  };

  absl::Status EncodeSessionRows(const SessionCheckpoint& checkpoint);

  rocksdb::WriteBatch batch_;
  std::vector<Session> sessions_;
};

}  // namespace calib::server

#endif  // CALIB_SERVER_STORE_COMMIT_BATCH_H_
