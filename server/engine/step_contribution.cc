#include "server/engine/step_contribution.h"

#include <algorithm>

#include "server/engine/update.h"

namespace calib::server {

bool StepContribution::SameLayers(const StepContribution& other) const {
  const auto same = [](const auto& a, const auto& b) { return a.layer == b.layer; };
  return std::equal(observed.begin(), observed.end(), other.observed.begin(), other.observed.end(), same) &&
         std::equal(gradients.begin(), gradients.end(), other.gradients.begin(), other.gradients.end(), same);
}

bool StepContribution::HasReferences() const {
  return std::any_of(observed.begin(), observed.end(), [](const Observed& layer) {
    return layer.layer->statistics.config().kind == ObserverKind::kReferenceHistogram;
  });
}

uint64_t StepContribution::Values() const {
  uint64_t values = 0;
  for (const Observed& layer : observed) {
    for (const Range& range : layer.ranges) values = SaturatingAdd(values, range.values());
  }
  return values;
}

}  // namespace calib::server
