#include "server/rpc/session_messages.h"

#include <algorithm>

#include "absl/time/time.h"
#include "proto/codec/config_codec.h"

namespace calib::server {
namespace {

constexpr int kMaxMissingRanks = 64;

void FillTimestamp(absl::Time time, google::protobuf::Timestamp* message) {
  const int64_t seconds = absl::ToUnixSeconds(time);
  message->set_seconds(seconds);
  message->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(time - absl::FromUnixSeconds(seconds))));
}

}  // namespace

void FillSession(const Session::Summary& summary, absl::Duration now, v1::Session* message) {
  const SessionRecord& record = summary.record;
  message->set_name(record.name);
  *message->mutable_config() = EncodeSessionConfig(record.config);
  FillTimestamp(record.create_time, message->mutable_create_time());
  message->set_sealed(record.sealed);
  message->set_layer_count(summary.layer_count);
  message->set_worker_count(summary.worker_count);
  message->set_updates_applied(record.updates_applied);
  message->set_values(summary.values);
  message->set_values_ignored(record.values_ignored);
  message->set_state_bytes(summary.state_bytes);
  message->set_incomplete(summary.incomplete);
  message->set_uid(record.uid);
  FillTimestamp(record.update_time, message->mutable_update_time());
  for (const ImportedState& known : record.imports) {
    v1::ImportedState* const imported = message->add_imported();
    imported->set_digest(known.digest);
    imported->set_sessions(known.lineage.size());
  }
  if (record.steps.world_epoch == 0) return;
  v1::SynchronousStatus* const steps = message->mutable_synchronous();
  steps->mutable_world()->set_epoch(record.steps.world_epoch);
  steps->mutable_world()->set_size(record.steps.world_size);
  steps->set_folded_step(record.steps.folded_step);
  steps->set_durable_step(summary.durable_step);
  steps->set_open_steps(summary.open_steps);
  for (const uint32_t rank : summary.missing_ranks) {
    if (steps->missing_rank_size() < kMaxMissingRanks) steps->add_missing_rank(rank);
  }
  steps->set_missing_ranks(static_cast<uint32_t>(summary.missing_ranks.size()));
  if (summary.open_since.has_value()) {
    const absl::Duration open_for = std::max(absl::ZeroDuration(), now - *summary.open_since);
    const int64_t seconds = absl::ToInt64Seconds(open_for);
    steps->mutable_open_for()->set_seconds(seconds);
    steps->mutable_open_for()->set_nanos(
        static_cast<int32_t>(absl::ToInt64Nanoseconds(open_for - absl::Seconds(seconds))));
  }
  steps->set_partial_steps(record.steps.partial_steps);
  steps->set_failed_steps(record.steps.failed_steps);
  steps->set_late_contributions(record.steps.late_contributions);
  steps->set_repeated_contributions(record.steps.repeated_contributions);
}

void FillWorkers(const Session& session, google::protobuf::RepeatedPtrField<v1::WorkerStatus>* messages) {
  for (const Session::WorkerSummary& worker : session.GetWorkers()) {
    v1::WorkerStatus* const message = messages->Add();
    message->set_worker_id(worker.record.id);
    message->set_incarnation(worker.record.incarnation);
    message->set_applied(worker.record.applied);
    message->set_durable(worker.durable);
    message->set_connected(worker.connected);
    if (worker.rank.has_value()) message->set_rank(*worker.rank);
    message->set_step(worker.step);
    message->set_lost(worker.record.lost);
  }
}

void FillLayerSummary(const Session::LayerSnapshot& layer, v1::LayerSummary* message) {
  message->set_layer(layer.name);
  *message->mutable_observer() = EncodeObserverConfig(layer.statistics.config());
  message->set_enabled(layer.enabled);
  message->set_channels(static_cast<uint32_t>(layer.statistics.channels().size()));
  message->set_workers(layer.workers);
  // Counts may pass 2^64 over all channels, though not in one: then they stay at the greatest number.
  const auto add = [](uint64_t a, uint64_t b) { return a + b < a ? ~uint64_t{0} : a + b; };
  Range whole;
  uint64_t infinities = 0;
  for (const ChannelStatistics& channel : layer.statistics.channels()) {
    const Range& range = channel.range;
    whole.count = add(whole.count, range.count);
    whole.nan = add(whole.nan, range.nan);
    infinities = add(infinities, range.infinities());
    if (range.min < whole.min) whole.min = range.min;
    if (range.max > whole.max) whole.max = range.max;
  }
  message->set_count(whole.count);
  message->set_nan(whole.nan);
  message->set_inf(infinities);
  if (!whole.empty()) {
    message->set_min(whole.min);
    message->set_max(whole.max);
  }
}

}  // namespace calib::server
