#ifndef CALIB_TESTS_QUANT_REFERENCE_TEST_UTIL_H_
#define CALIB_TESTS_QUANT_REFERENCE_TEST_UTIL_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "quant/reference_histogram.h"
#include "quant/searches.h"

namespace calib::test {

inline TensorView View(absl::Span<const float> values) {
  TensorView view;
  view.data = absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(float));
  return view;
}

inline Range RangeOf(absl::Span<const float> values) {
  Range range;
  for (const float value : values) {
    Range one;
    if (value != value) {
      one.nan = 1;
    } else if (value - value != 0) {
      (value > 0 ? one.positive_infinity : one.negative_infinity) = 1;
    } else {
      one.min = one.max = value == 0 ? 0.0f : value;
      one.count = 1;
    }
    range.Merge(one);
  }
  return range;
}

// Feeds one step as a server would.
inline absl::Status Feed(absl::Span<const float> values, ReferenceHistogram* histogram) {
  const Range range = RangeOf(values);
  const auto grid = histogram->NextGrid(range);
  if (!grid.ok()) return grid.status();
  std::vector<uint64_t> counts;
  absl::Status status = CountOnGrid(histogram->options().rule, *grid, View(values), &counts);
  if (!status.ok()) return status;
  return histogram->Fold(range, *grid, counts);
}

// What the rule's framework searches.
inline EqualWidthHistogram Searched(const ReferenceHistogram& histogram) {
  return {histogram.grid().low, histogram.grid().high, histogram.counts()};
}

}  // namespace calib::test

#endif  // CALIB_TESTS_QUANT_REFERENCE_TEST_UTIL_H_
