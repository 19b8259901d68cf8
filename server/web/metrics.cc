#include "server/web/metrics.h"

#include <prometheus/text_serializer.h>

#include <array>
#include <utility>

#include "absl/status/status.h"
#include "calib/v1/calibration_service.pb.h"
#include "google/protobuf/descriptor.h"
#include "proto/codec/error.h"

namespace calib::server {
namespace {

using Labels = std::vector<prometheus::ClientMetric::Label>;

prometheus::ClientMetric CounterSample(double value, Labels labels = {}) {
  prometheus::ClientMetric metric;
  metric.label = std::move(labels);
  metric.counter.value = value;
  return metric;
}

prometheus::MetricFamily Counter(std::string name, std::string help, double value) {
  return {std::move(name), std::move(help), prometheus::MetricType::Counter, {CounterSample(value)}};
}

prometheus::MetricFamily Gauge(std::string name, std::string help, double value) {
  prometheus::ClientMetric metric;
  metric.gauge.value = value;
  return {std::move(name), std::move(help), prometheus::MetricType::Gauge, {std::move(metric)}};
}

prometheus::MetricFamily Calls(const Counters& counters) {
  prometheus::MetricFamily family{
      "calibd_rpcs_total", "Calls that ended, by method and gRPC status code.", prometheus::MetricType::Counter, {}};
  const google::protobuf::ServiceDescriptor* const service =
      v1::CreateSessionRequest::descriptor()->file()->FindServiceByName("Calibration");
  for (int method = 0; method < service->method_count(); ++method) {
    for (size_t code = 0; code < Counters::kCodes; ++code) {
      const uint64_t count = counters.calls[method][code];
      if (count == 0) continue;
      family.metric.push_back(CounterSample(static_cast<double>(count),
                                            {{"rpc", service->method(method)->name()},
                                             {"code", absl::StatusCodeToString(static_cast<absl::StatusCode>(code))}}));
    }
  }
  return family;
}

prometheus::MetricFamily Refusals(const Counters& counters) {
  prometheus::MetricFamily family{"calibd_refusals_total",
                                  "Updates and layer registrations refused, by reason.",
                                  prometheus::MetricType::Counter,
                                  {}};
  for (size_t reason = 0; reason < counters.refusals.size(); ++reason) {
    const uint64_t count = counters.refusals[reason];
    if (count == 0 || !v1::ErrorReason_IsValid(static_cast<int>(reason))) continue;
    family.metric.push_back(
        CounterSample(static_cast<double>(count), {{"reason", ReasonName(static_cast<v1::ErrorReason>(reason))}}));
  }
  return family;
}

}  // namespace

std::vector<prometheus::MetricFamily> MetricsCollector::Collect() const {
  const Counters& c = *counters_;
  return {
      Counter("calibd_updates_applied_total", "Updates applied.", c.updates_applied),
      Counter("calibd_updates_repeated_total", "Updates that were repetitions: acknowledged, not applied.",
              c.updates_repeated),
      Refusals(c),
      Counter("calibd_values_observed_total", "Tensor values counted.", c.values_observed),
      Counter("calibd_values_ignored_total", "Tensor values ignored by disabled observers.", c.values_ignored),
      Counter("calibd_raw_bytes_total", "Bytes of raw tensors reduced here.", c.raw_bytes),
      Counter("calibd_statistics_bytes_total", "Bytes of messages with statistics.", c.statistics_bytes),
      Counter("calibd_steps_folded_total", "Synchronous steps folded.", c.steps_folded),
      Counter("calibd_partial_steps_total", "Synchronous steps closed without some rank.", c.partial_steps),
      Counter("calibd_failed_steps_total",
              "Synchronous steps that failed: at the deadline, or as they can't be folded.", c.failed_steps),
      Counter("calibd_late_contributions_total", "Contributions to synchronous steps closed without them.",
              c.late_contributions),
      Counter("calibd_repeated_contributions_total", "Contributions to synchronous steps that had the rank's already.",
              c.repeated_contributions),
      Counter("calibd_checkpoints_total", "Sessions committed to the store.", c.checkpoints),
      Counter("calibd_checkpoint_failures_total", "Commits that the store refused.", c.checkpoint_failures),
      Counter("calibd_checkpoint_seconds_total", "Time spent in commits.",
              static_cast<double>(c.checkpoint_micros) / 1e6),
      Counter("calibd_sessions_expired_total", "Sessions deleted because nothing happened to them for long.",
              c.sessions_expired),
      Calls(c),
      Gauge("calibd_sessions", "Sessions.", c.sessions),
      Gauge("calibd_layers", "Layers of all sessions.", c.layers),
      Gauge("calibd_state_bytes", "Memory that the statistics of all sessions take.", c.state_bytes),
      Gauge("calibd_export_bytes", "Memory of statistics that exports under way may hold.", c.export_bytes),
      Gauge("calibd_export_file_bytes",
            "Memory of exports to other formats under way: inputs, files, and what making them may take.",
            c.export_file_bytes),
      Gauge("calibd_streams", "Streams of workers, state files and exports open now.", c.streams),
      Gauge("calibd_store_bytes", "Disk space that the store's files take.", c.store_bytes),
      Gauge("calibd_store_free_bytes", "Disk space left on the store's file system.", c.store_free_bytes),
  };
}

std::string MetricsText(const prometheus::Collectable& collectable) {
  return prometheus::TextSerializer().Serialize(collectable.Collect());
}

}  // namespace calib::server
