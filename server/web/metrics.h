#ifndef CALIB_SERVER_WEB_METRICS_H_
#define CALIB_SERVER_WEB_METRICS_H_

#include <prometheus/collectable.h>
#include <prometheus/metric_family.h>

#include <string>
#include <vector>

#include "server/base/counters.h"

namespace calib::server {

// Counters as Prometheus metrics: names calibd_*, base units, labels `rpc`, `code` and `reason` from the contract's
// closed sets. A labelled counter is left out until it first counts. Thread-safe.
class MetricsCollector final : public prometheus::Collectable {
 public:
  // `counters` must outlive it.
  explicit MetricsCollector(const Counters* counters) : counters_(counters) {}

  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const Counters* const counters_;
};

// What /metrics answers, in Prometheus' text format.
std::string MetricsText(const prometheus::Collectable& collectable);

}  // namespace calib::server

#endif  // CALIB_SERVER_WEB_METRICS_H_
