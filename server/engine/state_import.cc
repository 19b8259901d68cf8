#include "server/engine/state_import.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "proto/codec/error.h"
#include "server/engine/validate.h"

namespace calib::server {
namespace {

// RandomUid makes such ones.
bool IsUid(absl::string_view uid) {
  return uid.size() == 32 && std::all_of(uid.begin(), uid.end(), [](char c) { return absl::ascii_isxdigit(c); });
}

// The reader's own errors have no reason yet.
absl::Status WithReason(const absl::Status& status) {
  if (status.ok() || GetErrorInfo(status).has_value()) return status;
  return MakeError(v1::ERROR_REASON_STATE_FILE_INVALID, status);
}

}  // namespace

StateImport::StateImport(Engine* engine)
    : engine_(engine),
      reader_({.on_header = [this](const v1::StateHeader& header, const SessionConfig&) { return TakeHeader(header); },
               .on_layer =
                   [this](std::string name, LayerStatistics statistics) {
                     return TakeLayer(std::move(name), std::move(statistics));
                   }}) {}

StateImport::~StateImport() { engine_->counters().state_bytes -= counted_; }

absl::Status StateImport::Add(absl::string_view bytes) {
  if (absl::Status status = WithReason(reader_.Add(bytes)); !status.ok()) return status;
  return Account();
}

absl::StatusOr<StateMerge> StateImport::Merge(Session* session, bool skip_unmergeable) {
  if (absl::Status status = WithReason(reader_.Finish()); !status.ok()) return status;
  state_.digest = reader_.digest();
  return session->MergeState(std::move(state_), skip_unmergeable);
}

absl::Status StateImport::TakeHeader(const v1::StateHeader& header) {
  const bool valid = ValidateSessionName(header.session()).ok() &&
                     std::all_of(header.lineage().begin(), header.lineage().end(), IsUid);
  if (!valid) return absl::InvalidArgumentError("byte 12: the header's session name or a uid of its lineage is none");
  const size_t max_lineage = engine_->options().limits.max_lineage;
  if (static_cast<size_t>(header.lineage_size()) > max_lineage) {
    return LimitExceeded(absl::StrCat("the state file has values of ", header.lineage_size(), " sessions"),
                         "--max-lineage", max_lineage);
  }
  state_.session = header.session();
  state_.incomplete = header.incomplete();
  state_.lineage.assign(header.lineage().begin(), header.lineage().end());
  return absl::OkStatus();
}

absl::Status StateImport::TakeLayer(std::string name, LayerStatistics statistics) {
  const Limits& limits = engine_->options().limits;
  if (absl::Status status = ValidateLayerName(name, limits); !status.ok()) return status;
  if (state_.layers.size() >= limits.max_layers) {
    return LimitExceeded(absl::StrCat("the state file has more than ", limits.max_layers, " layers"), "--max-layers",
                         limits.max_layers);
  }
  layer_bytes_ += sizeof(state_.layers[0]) + name.capacity() + statistics.MemoryBytes();
  state_.layers.emplace_back(std::move(name), std::move(statistics));
  return Account();
}

absl::Status StateImport::Account() {
  const auto held = static_cast<int64_t>(layer_bytes_ + reader_.MemoryBytes());
  const int64_t more = held - std::exchange(counted_, held);
  const uint64_t limit = engine_->options().limits.max_state_bytes;
  const int64_t now = engine_->counters().state_bytes += more;
  if (now < 0 || static_cast<uint64_t>(now) <= limit) return absl::OkStatus();
  return LimitExceeded(absl::StrCat("the server's statistics would take ", now, " bytes of memory"),
                       "--max-state-bytes", limit);
}

}  // namespace calib::server
