#ifndef CALIB_SERVER_STORE_COMMIT_MARK_H_
#define CALIB_SERVER_STORE_COMMIT_MARK_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace rocksdb {
class Env;
class RandomRWFile;
}  // namespace rocksdb

namespace calib::server {

// The file COMMITTED of a store: the number of the last commit that was acknowledged, outside of the database, so that
// a database that lost its end is known. FORMAT.md has its bytes. Not thread-safe.
class CommitMark {
 public:
  static std::string FileName(const std::string& store_path);

  // Makes the file of a new store, with commit 0; durable on return. UNAVAILABLE.
  static absl::Status Create(rocksdb::Env* env, const std::string& store_path);
  // UNAVAILABLE: can't be opened for writing. DATA_LOSS: not there, or neither of its numbers can be read.
  static absl::StatusOr<CommitMark> Open(rocksdb::Env* env, const std::string& store_path);

  CommitMark(CommitMark&&);
  CommitMark& operator=(CommitMark&&);
  ~CommitMark();

  // The least number that the database must have: that of the last commit that was, or may have been, acknowledged.
  uint64_t commit() const { return commit_; }
  // After an open that found the database good, at this commit: the file then says so in both of its places. Errors as
  // Write.
  absl::Status Renew(uint64_t commit);
  // Notes the commit after the last one; durable on return. UNAVAILABLE: it may be noted or not, and the mark must be
  // opened anew.
  absl::Status Write(uint64_t commit);

 private:
  CommitMark(std::string path, std::unique_ptr<rocksdb::RandomRWFile> file);

  std::string path_;
  std::unique_ptr<rocksdb::RandomRWFile> file_;
  uint64_t commit_ = 0;
  bool damaged_ = false;  // one of the places
};

}  // namespace calib::server

#endif  // CALIB_SERVER_STORE_COMMIT_MARK_H_
