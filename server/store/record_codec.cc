#include "server/store/record_codec.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/codec/config_codec.h"
#include "proto/codec/state_codec.h"
#include "server/store/step_codec.h"

namespace calib::server {

store::v1::SessionRow EncodeSession(const SessionRecord& session) {
  store::v1::SessionRow row;
  row.set_uid(session.uid);
  *row.mutable_config() = EncodeSessionConfig(session.config);
  row.set_create_time(absl::ToUnixNanos(session.create_time));
  row.set_update_time(absl::ToUnixNanos(session.update_time));
  row.set_sealed(session.sealed);
  for (const SessionRecord::Toggle& toggle : session.toggles) {
    store::v1::ToggleRecord* const record = row.add_toggles();
    record->set_pattern(toggle.pattern);
    record->set_enabled(toggle.enabled);
  }
  row.set_updates_applied(session.updates_applied);
  row.set_values_ignored(session.values_ignored);
  for (const ImportedState& import : session.imports) {
    store::v1::ImportRecord* const record = row.add_imports();
    record->set_digest(import.digest);
    for (const std::string& uid : import.lineage) record->add_lineage(uid);
    record->set_incomplete(import.incomplete);
  }
  if (session.steps.world_epoch != 0) *row.mutable_steps() = EncodeSteps(session.steps);
  return row;
}

absl::StatusOr<SessionRecord> DecodeSession(absl::string_view name, const store::v1::SessionRow& row) {
  SessionRecord session;
  session.name = std::string(name);
  session.uid = row.uid();
  absl::StatusOr<SessionConfig> config = DecodeSessionConfig(row.config());
  if (!config.ok()) return absl::DataLossError(config.status().message());
  session.config = *std::move(config);
  session.create_time = absl::FromUnixNanos(row.create_time());
  session.update_time = absl::FromUnixNanos(row.update_time());
  session.sealed = row.sealed();
  for (const store::v1::ToggleRecord& record : row.toggles()) {
    session.toggles.push_back({record.pattern(), record.enabled()});
  }
  session.updates_applied = row.updates_applied();
  session.values_ignored = row.values_ignored();
  for (const store::v1::ImportRecord& record : row.imports()) {
    session.imports.push_back(
        {record.digest(), {record.lineage().begin(), record.lineage().end()}, record.incomplete()});
  }
  if (row.has_steps()) {
    absl::StatusOr<StepsRecord> steps = DecodeSteps(row.steps());
    if (!steps.ok()) return steps.status();
    session.steps = *std::move(steps);
  }
  return session;
}

store::v1::WorkerRow EncodeWorker(const WorkerRecord& worker) {
  store::v1::WorkerRow row;
  row.set_id(worker.id);
  row.set_display_name(worker.display_name);
  row.set_incarnation(worker.incarnation);
  row.set_applied(worker.applied);
  row.set_lost(worker.lost);
  return row;
}

WorkerRecord DecodeWorker(uint32_t ordinal, const store::v1::WorkerRow& row) {
  return {.id = row.id(),
          .display_name = row.display_name(),
          .ordinal = ordinal,
          .incarnation = row.incarnation(),
          .applied = row.applied(),
          .lost = row.lost()};
}

store::v1::LayerRow EncodeLayer(const LayerRecord& layer) {
  store::v1::LayerRow row;
  if (!layer.statistics->empty()) StatisticsWriter().Add(0, *layer.statistics, row.mutable_statistics());
  row.mutable_workers()->Add(layer.workers.begin(), layer.workers.end());
  return row;
}

absl::StatusOr<LayerRecord> DecodeLayer(absl::string_view name, const SessionConfig& session, uint64_t workers,
                                        const store::v1::LayerRow& row) {
  const std::optional<ObserverConfig> observer = session.rules.Match(name);
  if (!observer.has_value()) return absl::DataLossError("the session's rules skip this layer");
  absl::StatusOr<LayerStatistics> statistics = DecodeLayerState(*observer, row.statistics());
  if (!statistics.ok()) return absl::DataLossError(statistics.status().message());
  LayerRecord layer;
  layer.name = std::string(name);
  layer.statistics = std::make_shared<const LayerStatistics>(*std::move(statistics));
  layer.workers.assign(row.workers().begin(), row.workers().end());
  for (size_t i = 0; i < layer.workers.size(); ++i) {
    if (layer.workers[i] < workers && (i == 0 || layer.workers[i - 1] < layer.workers[i])) continue;
    return absl::DataLossError(absl::StrCat("it names worker ", layer.workers[i], ", out of order or beyond the ",
                                            workers, " that the session has"));
  }
  return layer;
}

}  // namespace calib::server
