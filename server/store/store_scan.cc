#include "server/store/store_scan.h"

#include <memory>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "server/store/keys.h"
#include "server/store/rocksdb_open.h"
#include "server/store/rocksdb_status.h"
#include "server/store/row.h"

namespace calib::server {
namespace {

absl::string_view View(const rocksdb::Slice& slice) { return {slice.data(), slice.size()}; }

absl::Status About(const RowKey& key, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(key.ToString(), ": ", status.message()));
}

absl::Status InStore(rocksdb::DB* db, const absl::Status& status) {
  std::string message = absl::StrCat("the store at ", db->GetName(), ": ", status.message());
  if (absl::IsDataLoss(status)) absl::StrAppend(&message, "; ", kRestore);
  return absl::Status(status.code(), message);
}

absl::Status CheckNumber(absl::string_view what, uint64_t found, uint64_t committed) {
  if (found == committed) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(found, " ", what, " are there, ", committed, " were committed"));
}

class Scan {
 public:
  Scan(uint64_t seed, const ReceiveSession* receive) : seed_(seed), receive_(receive) {}

  absl::Status Add(absl::string_view key, absl::string_view value) {
    const absl::StatusOr<RowKey> decoded = DecodeKey(key);
    if (!decoded.ok()) return decoded.status();
    const absl::StatusOr<RowView> row = CheckRow(key, value);
    absl::Status status = row.ok() ? AddRow(*decoded, *row) : row.status();
    return status.ok() ? status : About(*decoded, status);
  }

  absl::StatusOr<StoreRows> Finish() {
    if (absl::Status status = FinishSession(); !status.ok()) return status;
    if (!has_store_row_) return absl::DataLossError("the store's own row is not there");
    const RowKey store{.kind = RowKind::kStore};
    if (absl::Status status = CheckNumber("sessions", rows_.sessions.size(), rows_.store.sessions()); !status.ok()) {
      return About(store, status);
    }
    if (sum_ != rows_.store.session_sum()) {
      return About(store, absl::DataLossError("some session's row is not the one that was committed last"));
    }
    return std::move(rows_);
  }

 private:
  absl::Status AddRow(const RowKey& key, const RowView& row) {
    if (key.kind == RowKind::kStore) {
      has_store_row_ = true;
      return ParseRow(row, &rows_.store);
    }
    if (key.kind == RowKind::kSession) {
      if (absl::Status status = FinishSession(); !status.ok()) return status;
      return BeginSession(key.session, row);
    }
    if (!session_.has_value() || session_->name != key.session) {
      return absl::DataLossError("the session's own row is not there");
    }
    if (key.kind == RowKind::kWorker) {
      if (key.ordinal != sums_->rows.workers()) {
        return absl::DataLossError(absl::StrCat("worker ", sums_->rows.workers(), " is not there"));
      }
      sums_->rows.SetWorker(key.ordinal, row.checksum);
      if (receive_ != nullptr) session_->workers.emplace_back(row.message);
      return absl::OkStatus();
    }
    sums_->rows.SetLayer(key.layer, row.checksum);
    if (receive_ != nullptr) session_->layers.emplace_back(key.layer, row.message);
    return absl::OkStatus();
  }

  absl::Status BeginSession(absl::string_view name, const RowView& row) {
    session_.emplace();
    session_->name = std::string(name);
    sums_ = &rows_.sessions.try_emplace(session_->name, StoreRows::Session{RowSums(seed_), row.checksum}).first->second;
    sum_ += row.checksum;
    return ParseRow(row, &session_->row);
  }

  absl::Status FinishSession() {
    if (!session_.has_value()) return absl::OkStatus();
    const RowKey key{.kind = RowKind::kSession, .session = session_->name};
    absl::Status status = CheckNumber("workers", sums_->rows.workers(), session_->row.workers());
    if (status.ok()) status = CheckNumber("layers", sums_->rows.layers(), session_->row.layers());
    if (status.ok() && sums_->rows.sum() != session_->row.row_sum()) {
      status = absl::DataLossError("some worker's or layer's row is not the one that was committed last");
    }
    if (!status.ok()) return About(key, status);
    if (receive_ != nullptr) (*receive_)(*std::move(session_));
    session_.reset();
    return absl::OkStatus();
  }

  const uint64_t seed_;
  const ReceiveSession* const receive_;
  StoreRows rows_;
  bool has_store_row_ = false;
  uint64_t sum_ = 0;                      // of the checksums of session rows
  std::optional<StoredSession> session_;  // whose rows are being read
  StoreRows::Session* sums_ = nullptr;    // of it
};

}  // namespace

absl::StatusOr<store::v1::StoreRow> ReadStoreRow(rocksdb::DB* db) {
  const RowKey key{.kind = RowKind::kStore};
  const std::string encoded = EncodeKey(key);
  std::string value;
  const rocksdb::Status status = db->Get(VerifiedRead(), encoded, &value);
  if (status.IsNotFound()) {
    const std::unique_ptr<rocksdb::Iterator> rows(db->NewIterator(VerifiedRead()));
    rows->SeekToFirst();
    if (rows->Valid() || !rows->status().ok()) {
      return InStore(db, absl::DataLossError(absl::StrCat(key.ToString(), " is not there")));
    }
    return absl::NotFoundError("the database is empty");
  }
  if (!status.ok()) return FromRocksDb(status, "cannot read", db->GetName());
  const absl::StatusOr<RowView> row = CheckRow(encoded, value);
  if (!row.ok()) return InStore(db, About(key, row.status()));
  store::v1::StoreRow store;
  if (absl::Status parsed = ParseRow(*row, &store); !parsed.ok()) return InStore(db, About(key, parsed));
  return store;
}

absl::StatusOr<StoreRows> ScanStore(rocksdb::DB* db, uint64_t seed, const ReceiveSession* receive) {
  Scan scan(seed, receive);
  rocksdb::ReadOptions options = VerifiedRead();
  options.fill_cache = false;
  const std::unique_ptr<rocksdb::Iterator> rows(db->NewIterator(options));
  for (rows->SeekToFirst(); rows->Valid(); rows->Next()) {
    if (absl::Status status = scan.Add(View(rows->key()), View(rows->value())); !status.ok()) {
      return InStore(db, status);
    }
  }
  if (!rows->status().ok()) return FromRocksDb(rows->status(), "cannot read", db->GetName());
  absl::StatusOr<StoreRows> finished = scan.Finish();
  if (!finished.ok()) return InStore(db, finished.status());
  return finished;
}

}  // namespace calib::server
