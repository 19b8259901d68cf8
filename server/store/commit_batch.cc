#include "server/store/commit_batch.h"

#include <algorithm>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/store/keys.h"
#include "server/store/record_codec.h"
#include "server/store/rocksdb_open.h"
#include "server/store/rocksdb_status.h"
#include "server/store/row.h"

namespace calib::server {
namespace {

// Adds a row to a batch; returns its checksum.
absl::StatusOr<uint64_t> Put(const RowKey& key, const google::protobuf::MessageLite& message,
                             rocksdb::WriteBatch* batch) {
  const std::string encoded = EncodeKey(key);
  const absl::StatusOr<Row> row = EncodeRow(encoded, message);
  if (!row.ok()) return absl::Status(row.status().code(), absl::StrCat(key.ToString(), ": ", row.status().message()));
  const rocksdb::Status status = batch->Put(encoded, row->value);
  if (!status.ok()) return FromRocksDb(status, "cannot write", key.ToString());
  return row->checksum;
}

}  // namespace

absl::StatusOr<CommitBatch> CommitBatch::Encode(const std::vector<SessionCheckpoint>& checkpoints) {
  CommitBatch commit;
  for (const SessionCheckpoint& checkpoint : checkpoints) {
    if (absl::Status status = commit.EncodeSessionRows(checkpoint); !status.ok()) return status;
  }
  return commit;
}

absl::Status CommitBatch::EncodeSessionRows(const SessionCheckpoint& checkpoint) {
  const std::string& name = checkpoint.session.name;
  if (absl::StrContains(name, absl::string_view("\0", 1))) {
    return absl::InvalidArgumentError("a session's name has a zero byte; no store keeps such a session");
  }
  Session session{.name = name, .row = EncodeSession(checkpoint.session)};
  for (const WorkerRecord& worker : checkpoint.workers) {
    const RowKey key{.kind = RowKind::kWorker, .session = name, .ordinal = worker.ordinal};
    const absl::StatusOr<uint64_t> checksum = Put(key, EncodeWorker(worker), &batch_);
    if (!checksum.ok()) return checksum.status();
    session.workers.emplace_back(worker.ordinal, *checksum);
  }
  std::sort(session.workers.begin(), session.workers.end());
  for (const LayerRecord& layer : checkpoint.layers) {
    const RowKey key{.kind = RowKind::kLayer, .session = name, .layer = layer.name};
    const absl::StatusOr<uint64_t> checksum = Put(key, EncodeLayer(layer), &batch_);
    if (!checksum.ok()) return checksum.status();
    session.layers.emplace_back(layer.name, *checksum);
  }
  sessions_.push_back(std::move(session));
  return absl::OkStatus();
}

absl::Status CommitBatch::AddSessions(uint64_t seed, StoreRows* rows) {
  for (Session& session : sessions_) {
    StoreRows::Session& known =
        rows->sessions.try_emplace(session.name, StoreRows::Session{RowSums(seed)}).first->second;
    for (const auto& [ordinal, checksum] : session.workers) {
      if (ordinal > known.rows.workers()) {
        return absl::InvalidArgumentError(absl::StrCat("session ", session.name, " has ", known.rows.workers(),
                                                       " workers, and worker ", ordinal,
                                                       " is committed; they are counted without gaps"));
      }
      known.rows.SetWorker(ordinal, checksum);
    }
    for (const auto& [layer, checksum] : session.layers) known.rows.SetLayer(layer, checksum);
    session.row.set_workers(known.rows.workers());
    session.row.set_layers(known.rows.layers());
    session.row.set_row_sum(known.rows.sum());
    const absl::StatusOr<uint64_t> checksum =
        Put({.kind = RowKind::kSession, .session = session.name}, session.row, &batch_);
    if (!checksum.ok()) return checksum.status();
    rows->store.set_session_sum(rows->store.session_sum() + *checksum - known.checksum);
    known.checksum = *checksum;
  }
  rows->store.set_sessions(rows->sessions.size());
  return absl::OkStatus();
}

absl::Status CommitBatch::RemoveSession(rocksdb::DB* db, const std::string& name, StoreRows* rows) {
  const auto found = rows->sessions.find(name);
  if (found == rows->sessions.end()) return absl::OkStatus();
  // One by one: a deletion of the whole span at once is a feature of RocksDB with a history of its own.
  const std::string prefix = SessionPrefix(name);
  const std::unique_ptr<rocksdb::Iterator> row(db->NewIterator(VerifiedRead()));
  for (row->Seek(prefix); row->Valid() && row->key().starts_with(prefix); row->Next()) batch_.Delete(row->key());
  if (!row->status().ok()) return FromRocksDb(row->status(), "cannot read", db->GetName());
  rows->store.set_session_sum(rows->store.session_sum() - found->second.checksum);
  rows->sessions.erase(found);
  rows->store.set_sessions(rows->sessions.size());
  return absl::OkStatus();
}

absl::Status CommitBatch::AddStore(const store::v1::StoreRow& store) {
  return Put({.kind = RowKind::kStore}, store, &batch_).status();
}

}  // namespace calib::server
