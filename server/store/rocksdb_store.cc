#include "server/store/rocksdb_store.h"

#include <algorithm>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "rocksdb/db.h"
#include "rocksdb/env.h"
#include "server/base/kill_point.h"
#include "server/base/mutex.h"
#include "server/store/commit_batch.h"
#include "server/store/commit_mark.h"
#include "server/store/folder_usage.h"
#include "server/store/rocksdb_open.h"
#include "server/store/rocksdb_status.h"
#include "server/store/session_decoder.h"
#include "server/store/store_scan.h"

namespace calib::server {
namespace {

uint64_t RandomSeed() {
  std::random_device device;
  return uint64_t{device()} << 32 | device();
}

int DecoderThreads() { return std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, 16); }

class RocksDbStore : public Store {
 public:
  explicit RocksDbStore(const RocksDbOptions& options)
      : path_(options.path),
        clock_(options.clock),
        env_(options.env != nullptr ? options.env : rocksdb::Env::Default()),
        seed_(RandomSeed()),
        usage_(env_, options.clock, options.path) {}

  absl::StatusOr<uint64_t> Open() override ABSL_LOCKS_EXCLUDED(mutex_);
  absl::StatusOr<std::vector<SessionCheckpoint>> Load() override ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status Commit(uint64_t epoch, std::vector<SessionCheckpoint> checkpoints) override ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status Delete(uint64_t epoch, const std::string& session) override ABSL_LOCKS_EXCLUDED(mutex_);
  StoreUsage GetUsage() const override { return usage_.Get(); }

 private:
  // Opens database and mark, and checks one by the other: db_, mark_ and store_row_ are set.
  absl::Status OpenFiles() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Makes the store ready for a change: open, with the rows known, and ours.
  absl::Status Prepare(uint64_t epoch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // As OpenFiles, after a change that failed: nothing is known of what it left on the disk, but the changes before it.
  absl::Status Reopen() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Writes a batch and `row`, the store's, as the next commit. Any error closes the store.
  absl::Status Write(store::v1::StoreRow row, CommitBatch* batch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Marks the last commit that was written as acknowledged. Any error closes the store.
  absl::Status Mark() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The same two for a commit of sessions, which has kill points.
  absl::Status WriteAndMark(CommitBatch* batch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Close() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string path_;
  const Clock* const clock_;
  rocksdb::Env* const env_;
  const uint64_t seed_;
  const FolderUsage usage_;

  Mutex mutex_;
  uint64_t epoch_ ABSL_GUARDED_BY(mutex_) = 0;         // 0: not opened yet
  uint64_t acknowledged_ ABSL_GUARDED_BY(mutex_) = 0;  // the last commit that returned OK
  // All three or none.
  std::unique_ptr<rocksdb::DB> db_ ABSL_GUARDED_BY(mutex_);
  std::optional<CommitMark> mark_ ABSL_GUARDED_BY(mutex_);
  store::v1::StoreRow store_row_ ABSL_GUARDED_BY(mutex_);
  // Unset until every row was read.
  std::optional<StoreRows> rows_ ABSL_GUARDED_BY(mutex_);
};

absl::Status RocksDbStore::OpenFiles() {
  if (absl::Status status = MakeFolders(path_); !status.ok()) return status;
  if (env_->FileExists(CommitMark::FileName(path_)).IsNotFound()) {
    const absl::StatusOr<bool> has_files = HasRocksDbFiles(env_, path_);
    if (!has_files.ok()) return has_files.status();
    if (*has_files) {
      return absl::DataLossError(absl::StrCat("the store at ", path_, " is damaged: its file ",
                                              CommitMark::FileName(path_), " is not there; ", kRestore));
    }
    if (absl::Status status = CommitMark::Create(env_, path_); !status.ok()) return status;
  }
  absl::StatusOr<CommitMark> mark = CommitMark::Open(env_, path_);
  if (!mark.ok()) return mark.status();
  absl::StatusOr<std::unique_ptr<rocksdb::DB>> db = OpenRocksDb(env_, path_, /*create=*/mark->commit() == 0);
  if (!db.ok()) return db.status();
  absl::StatusOr<store::v1::StoreRow> row = ReadStoreRow(db->get());
  if (!row.ok() && !absl::IsNotFound(row.status())) return row.status();
  const uint64_t commit = row.ok() ? row->commit() : 0;
  const uint64_t acknowledged = std::max(mark->commit(), acknowledged_);
  if (commit < acknowledged) {
    return absl::DataLossError(absl::StrCat("the store at ", path_, " goes back in time: commit ", acknowledged,
                                            " was acknowledged, and ", commit, " is the last one found; ", kRestore));
  }
  if (commit > 0) {
    if (absl::Status status = mark->Renew(commit); !status.ok()) return status;
  }
  db_ = *std::move(db);
  mark_ = *std::move(mark);
  store_row_ = row.ok() ? *std::move(row) : store::v1::StoreRow();
  return absl::OkStatus();
}

void RocksDbStore::Close() {
  rows_.reset();
  mark_.reset();
  db_.reset();
}

absl::StatusOr<uint64_t> RocksDbStore::Open() {
  MutexLock lock(&mutex_);
  if (epoch_ != 0) return absl::FailedPreconditionError("the store is open already");
  if (absl::Status status = OpenFiles(); !status.ok()) return status;
  ReachKillPoint(kill_points::kOpenBegin);
  store::v1::StoreRow row = store_row_;
  row.set_epoch(std::max<uint64_t>(row.epoch() + 1, std::max<int64_t>(absl::ToUnixMicros(clock_->Now()), 0)));
  CommitBatch batch;
  if (absl::Status status = Write(row, &batch); !status.ok()) return status;
  if (absl::Status status = Mark(); !status.ok()) return status;
  ReachKillPoint(kill_points::kOpenEnd);
  epoch_ = row.epoch();
  return epoch_;
}

absl::StatusOr<std::vector<SessionCheckpoint>> RocksDbStore::Load() {
  MutexLock lock(&mutex_);
  if (db_ == nullptr) {
    if (absl::Status status = Reopen(); !status.ok()) return status;
  }
  SessionDecoder decoder(DecoderThreads());
  const auto add = [&decoder](StoredSession session) { decoder.Add(std::move(session)); };
  const ReceiveSession receive = add;
  absl::StatusOr<StoreRows> rows = ScanStore(db_.get(), seed_, &receive);
  if (!rows.ok()) return rows.status();
  rows_ = *std::move(rows);
  return decoder.Finish();
}

absl::Status RocksDbStore::Reopen() {
  if (epoch_ == 0) return absl::FailedPreconditionError("the store was not opened");
  if (absl::Status status = OpenFiles(); !status.ok()) return status;
  acknowledged_ = store_row_.commit();
  return absl::OkStatus();
}

absl::Status RocksDbStore::Prepare(uint64_t epoch) {
  if (epoch == epoch_ && db_ == nullptr) {
    if (absl::Status status = Reopen(); !status.ok()) return status;
  }
  const uint64_t newest = db_ == nullptr ? epoch_ : store_row_.epoch();
  if (epoch != newest) {
    return absl::AbortedError(absl::StrCat("the store at ", path_, " was taken over: this server's epoch is ", epoch,
                                           ", the newest is ", newest));
  }
  if (rows_.has_value()) return absl::OkStatus();
  absl::StatusOr<StoreRows> rows = ScanStore(db_.get(), seed_, nullptr);
  if (!rows.ok()) return rows.status();
  rows_ = *std::move(rows);
  return absl::OkStatus();
}

absl::Status RocksDbStore::Write(store::v1::StoreRow row, CommitBatch* batch) {
  row.set_commit(store_row_.commit() + 1);
  if (absl::Status status = batch->AddStore(row); !status.ok()) {
    Close();
    return status;
  }
  const rocksdb::Status status = db_->Write(SyncedWrite(), batch->batch());
  if (!status.ok()) {
    Close();
    return FromRocksDb(status, "cannot write to the store at", path_);
  }
  store_row_ = std::move(row);
  return absl::OkStatus();
}

absl::Status RocksDbStore::Mark() {
  if (absl::Status status = mark_->Write(store_row_.commit()); !status.ok()) {
    Close();
    return status;
  }
  acknowledged_ = store_row_.commit();
  return absl::OkStatus();
}

absl::Status RocksDbStore::WriteAndMark(CommitBatch* batch) {
  ReachKillPoint(kill_points::kCommitBegin);
  if (absl::Status status = Write(rows_->store, batch); !status.ok()) return status;
  ReachKillPoint(kill_points::kCommitWritten);
  if (absl::Status status = Mark(); !status.ok()) return status;
  ReachKillPoint(kill_points::kCommitMarked);
  return absl::OkStatus();
}

absl::Status RocksDbStore::Commit(uint64_t epoch, std::vector<SessionCheckpoint> checkpoints) {
  absl::StatusOr<CommitBatch> batch = CommitBatch::Encode(checkpoints);
  if (!batch.ok()) return batch.status();
  MutexLock lock(&mutex_);
  if (absl::Status status = Prepare(epoch); !status.ok()) return status;
  if (absl::Status status = batch->AddSessions(seed_, &*rows_); !status.ok()) {
    rows_.reset();
    return status;
  }
  return WriteAndMark(&*batch);
}

absl::Status RocksDbStore::Delete(uint64_t epoch, const std::string& session) {
  CommitBatch batch;
  MutexLock lock(&mutex_);
  if (absl::Status status = Prepare(epoch); !status.ok()) return status;
  if (rows_->sessions.find(session) == rows_->sessions.end()) return absl::OkStatus();
  if (absl::Status status = batch.RemoveSession(db_.get(), session, &*rows_); !status.ok()) {
    Close();
    return status;
  }
  return WriteAndMark(&batch);
}

}  // namespace

std::unique_ptr<Store> NewRocksDbStore(const RocksDbOptions& options) {
  return std::make_unique<RocksDbStore>(options);
}

}  // namespace calib::server
