#include "server/engine/step_contribution.h"

#include <algorithm>

#include "server/engine/update.h"

namespace calib::server {

bool StepContribution::SameLayers(const StepContribution& other) const {
  const auto same = [](const auto& a, const auto& b) { return a.layer == b.layer; };
  return std::equal(observed.begin(), observed.end(), other.observed.begin(), other.observed.end(), same) &&
         std::equal(gradients.begin(), gradients.end(), other.gradients.begin(), other.gradients.end(), same);
}

size_t StepContribution::MemoryBytes() const {
  size_t bytes = sizeof(*this);
  for (const Observed& layer : observed) {
    bytes += sizeof(layer) + layer.ranges.capacity() * sizeof(Range);
    if (layer.histogram.has_value()) bytes += layer.histogram->MemoryBytes();
  }
  for (const Gradients& layer : gradients) bytes += sizeof(layer) + layer.sums.capacity() * sizeof(LearnedGradient);
  return bytes;
}

uint64_t StepContribution::Values() const {
  uint64_t values = 0;
  for (const Observed& layer : observed) {
    for (const Range& range : layer.ranges) values = SaturatingAdd(values, range.values());
  }
  return values;
}

}  // namespace calib::server
