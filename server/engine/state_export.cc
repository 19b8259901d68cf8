#include "server/engine/state_export.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "proto/codec/config_codec.h"
#include "proto/codec/error.h"
#include "server/engine/validate.h"

namespace calib::server {
namespace {

v1::StateHeader MakeHeader(const StateCut& cut) {
  const SessionRecord& record = cut.record;
  v1::StateHeader header;
  header.set_session(record.name);
  header.set_uid(record.uid);
  std::vector<std::string> lineage = {record.uid};
  for (const ImportedState& known : record.imports) {
    lineage.insert(lineage.end(), known.lineage.begin(), known.lineage.end());
  }
  std::sort(lineage.begin(), lineage.end());
  header.mutable_lineage()->Add(lineage.begin(), lineage.end());
  *header.mutable_config() = EncodeSessionConfig(record.config);
  const int64_t seconds = absl::ToUnixSeconds(record.create_time);
  header.mutable_create_time()->set_seconds(seconds);
  header.mutable_create_time()->set_nanos(
      static_cast<int32_t>(absl::ToInt64Nanoseconds(record.create_time - absl::FromUnixSeconds(seconds))));
  header.set_updates(record.updates_applied);
  header.set_incomplete(cut.incomplete);
  return header;
}

}  // namespace

absl::StatusOr<std::unique_ptr<StateExport>> StateExport::Begin(Engine* engine, const std::string& session) {
  const absl::StatusOr<std::shared_ptr<Session>> found = engine->FindSession(session);
  if (!found.ok()) return found.status();
  const uint64_t limit = engine->options().limits.max_state_bytes;
  const auto too_much = [limit](uint64_t bytes) {
    return LimitExceeded(absl::StrCat("exports under way would hold ", bytes, " bytes of statistics"),
                         "--max-state-bytes", limit);
  };
  // Before the cut, which makes every layer be copied at its next change; and after it, for what came between.
  if (const int64_t held = engine->counters().export_bytes; held > 0) {
    const uint64_t bytes = static_cast<uint64_t>(held) + (*found)->GetSummary().state_bytes;
    if (bytes > limit) return too_much(bytes);
  }
  absl::StatusOr<StateCut> cut = (*found)->CutState();
  if (!cut.ok()) return cut.status();
  const auto bytes = static_cast<int64_t>(cut->bytes);
  const int64_t held = engine->counters().export_bytes.fetch_add(bytes);
  // The object gives them back, also when it is refused. Alone, an export of whatever size is taken.
  std::unique_ptr<StateExport> state(new StateExport(engine, *std::move(cut)));
  if (held > 0 && static_cast<uint64_t>(held + bytes) > limit) {
    return too_much(static_cast<uint64_t>(held + bytes));
  }
  return state;
}

StateExport::StateExport(Engine* engine, StateCut cut)
    : engine_(engine), bytes_(static_cast<int64_t>(cut.bytes)), writer_(MakeHeader(cut), std::move(cut.layers)) {}

StateExport::~StateExport() { engine_->counters().export_bytes -= bytes_; }

absl::StatusOr<bool> StateExport::Next(std::string* bytes) {
  absl::StatusOr<bool> more = writer_.Next(bytes);
  if (more.ok()) return more;
  return MakeError(v1::ERROR_REASON_LIMIT_EXCEEDED, more.status(), {{"limit", absl::StrCat(kMaxStateRecordBytes)}});
}

}  // namespace calib::server
