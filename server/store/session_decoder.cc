#include "server/store/session_decoder.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/store/keys.h"
#include "server/store/record_codec.h"
#include "server/store/rocksdb_status.h"
#include "server/store/row.h"

namespace calib::server {
namespace {

absl::Status DecodeError(const RowKey& key, const absl::Status& status) {
  return absl::DataLossError(absl::StrCat("the store's ", key.ToString(), ": ", status.message(), "; ", kRestore));
}

template <typename Message>
absl::StatusOr<Message> Parse(const std::string& bytes) {
  Message message;
  if (absl::Status status = ParseRow({.message = bytes}, &message); !status.ok()) return status;
  return message;
}

absl::StatusOr<LayerRecord> DecodeLayerRow(const std::string& name, const std::string& bytes,
                                           const SessionRecord& session, uint64_t workers) {
  const absl::StatusOr<store::v1::LayerRow> row = Parse<store::v1::LayerRow>(bytes);
  if (!row.ok()) return row.status();
  return DecodeLayer(name, session.config, workers, *row);
}

absl::StatusOr<SessionCheckpoint> DecodeStored(const StoredSession& stored) {
  SessionCheckpoint checkpoint;
  absl::StatusOr<SessionRecord> session = DecodeSession(stored.name, stored.row);
  if (!session.ok()) return DecodeError({.kind = RowKind::kSession, .session = stored.name}, session.status());
  checkpoint.session = *std::move(session);
  checkpoint.workers.reserve(stored.workers.size());
  for (uint32_t ordinal = 0; ordinal < stored.workers.size(); ++ordinal) {
    const absl::StatusOr<store::v1::WorkerRow> row = Parse<store::v1::WorkerRow>(stored.workers[ordinal]);
    if (!row.ok()) {
      return DecodeError({.kind = RowKind::kWorker, .session = stored.name, .ordinal = ordinal}, row.status());
    }
    checkpoint.workers.push_back(DecodeWorker(ordinal, *row));
  }
  checkpoint.layers.reserve(stored.layers.size());
  for (const auto& [name, bytes] : stored.layers) {
    absl::StatusOr<LayerRecord> layer = DecodeLayerRow(name, bytes, checkpoint.session, stored.workers.size());
    if (!layer.ok()) {
      return DecodeError({.kind = RowKind::kLayer, .session = stored.name, .layer = name}, layer.status());
    }
    checkpoint.layers.push_back(*std::move(layer));
  }
  return checkpoint;
}

}  // namespace

SessionDecoder::SessionDecoder(int threads)
    : most_waiting_(4 * static_cast<size_t>(threads)), pool_(std::make_unique<ThreadPool>(threads)) {}

SessionDecoder::~SessionDecoder() = default;

void SessionDecoder::Add(StoredSession session) {
  {
    MutexLock lock(&mutex_);
    while (waiting_ >= most_waiting_) changed_.Wait(&mutex_);
    ++waiting_;
  }
  absl::StatusOr<SessionCheckpoint>* const decoded = &decoded_.emplace_back();
  pool_->Schedule([this, decoded, session = std::move(session)] {
    *decoded = DecodeStored(session);
    MutexLock lock(&mutex_);
    --waiting_;
    changed_.SignalAll();
  });
}

absl::StatusOr<std::vector<SessionCheckpoint>> SessionDecoder::Finish() {
  pool_.reset();
  std::vector<SessionCheckpoint> sessions;
  sessions.reserve(decoded_.size());
  for (absl::StatusOr<SessionCheckpoint>& session : decoded_) {
    if (!session.ok()) return session.status();
    sessions.push_back(*std::move(session));
  }
  return sessions;
}

}  // namespace calib::server
