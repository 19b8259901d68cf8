#ifndef CALIB_TESTS_QUANT_STEP_FEEDING_H_
#define CALIB_TESTS_QUANT_STEP_FEEDING_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "quant/layer_statistics.h"
#include "quant/observe.h"
#include "tests/quant/methods_test_util.h"
#include "tests/quant/reference_test_util.h"

namespace calib::test {

// One tensor as a step of this layer, as a server makes it: extremes by the observer, then the counts on the grid that
// the layer's state asks for.
inline absl::StatusOr<Step> MakeStep(absl::Span<const float> values, std::vector<uint64_t> shape,
                                     const LayerStatistics& layer) {
  ObserverConfig config;
  config.kind = ObserverKind::kMinMax;
  config.channel_axis = layer.config().channel_axis;
  LayerStatistics ranges(config);
  TensorView view = View(values);
  view.shape = shape;
  if (absl::Status status = TensorObserver().Observe(view, &ranges); !status.ok()) return status;
  Step step;
  for (const ChannelStatistics& channel : ranges.channels()) step.ranges.push_back(channel.range);
  const absl::StatusOr<ReferenceGrid> grid = layer.NextGrid(step.ranges.front());
  if (!grid.ok()) return grid.status();
  step.grid = *grid;
  if (grid->bins > 0) {
    absl::Status status = CountOnGrid(layer.config().reference.rule, *grid, view, &step.counts);
    if (!status.ok()) return status;
  }
  return step;
}

// Folds one tensor in.
inline absl::Status FoldTensor(absl::Span<const float> values, std::vector<uint64_t> shape, LayerStatistics* layer) {
  const absl::StatusOr<Step> step = MakeStep(values, std::move(shape), *layer);
  if (!step.ok()) return step.status();
  if (absl::Status status = layer->CheckStep(*step); !status.ok()) return status;
  layer->FoldStep(*step);
  return absl::OkStatus();
}

// A golden layer folded in step by step; whole: all of it as one step.
inline LayerStatistics FoldLayer(const GoldenLayer& layer, const ObserverConfig& config, bool whole = false) {
  LayerStatistics statistics(config);
  auto shape = layer.expected.at("shape").get<std::vector<uint64_t>>();
  const size_t batches = layer.expected.at("batches").get<size_t>(), steps = whole ? 1 : batches;
  if (whole) shape[0] *= batches;
  const size_t size = layer.values.size() / steps;
  for (size_t step = 0; step < steps; ++step) {
    EXPECT_EQ(FoldTensor(absl::MakeConstSpan(layer.values).subspan(step * size, size), shape, &statistics),
              absl::OkStatus())
        << layer.name;
  }
  return statistics;
}

}  // namespace calib::test

#endif  // CALIB_TESTS_QUANT_STEP_FEEDING_H_
