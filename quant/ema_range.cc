#include "quant/ema_range.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"

namespace calib {
namespace {

// One extreme's average. Each operation rounds to float32.
float Average(const EmaOptions& options, float value, float step) {
  const float weight = static_cast<float>(options.weight);
  float result = 0;
  double exact = 0;
  if (options.convention == EmaConvention::kMegengine) {
    // The observer's momentum is a float32 tensor, so 1 - 0.9 is 0.100000024.
    const float rest = 1.0f - weight;
    result = value * weight + rest * step;
    exact = double{value} * weight + double{rest} * step;
  } else {
    result = value + weight * (step - value);
    exact = value + weight * (double{step} - value);
  }
  // The average lies between two finite numbers, even where float32 can't hold their difference.
  return std::isfinite(result) ? result : static_cast<float>(exact);
}

}  // namespace

absl::Status CheckEmaOptions(const EmaOptions& options) {
  const bool megengine = options.convention == EmaConvention::kMegengine;
  const float weight = static_cast<float>(options.weight);
  if (megengine ? weight >= 0 && weight < 1 : weight > 0 && weight <= 1) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the moving average's weight of the ", megengine ? "old" : "new",
                                                 " value is ", options.weight, "; it must be in ",
                                                 megengine ? "[0, 1)" : "(0, 1]"));
}

void EmaRange::Fold(const EmaOptions& options, const Range& step) {
  if (step.empty()) return;
  const bool first = steps++ == 0;
  min = first ? step.min : Average(options, min, step.min);
  max = first ? step.max : Average(options, max, step.max);
  // Rounding can swap two averages that are equal or neighbours; PyTorch's observer fails on such a range.
  if (max < min) max = min;
}

}  // namespace calib
