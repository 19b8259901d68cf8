#include "tests/engine/step_oracle.h"

#include <cstdint>
#include <utility>

#include "gtest/gtest.h"
#include "quant/calibrate.h"
#include "quant/learned_observer.h"
#include "tests/engine/engine_fixture.h"

namespace calib::server::test {
namespace {

// What an answer says of one layer.
struct LayerAnswer {
  std::vector<float> step_min, step_max, min, max, scale, learned_zero_point;
  std::vector<int64_t> zero_point;
};

void AddRange(const Range& range, std::vector<float>* min, std::vector<float>* max) {
  min->push_back(range.empty() ? 0 : range.min);
  max->push_back(range.empty() ? 0 : range.max);
}

Range RangeHeldBy(const ChannelStatistics& channel) {
  if (channel.ema.has_value()) return {.min = channel.ema->min, .max = channel.ema->max, .count = channel.ema->steps};
  if (channel.reference.has_value()) return channel.reference->range();
  return channel.range;
}

// By method minmax. A histogram adds an expected error to it alone, so it is left out: that takes long.
std::vector<QParams> ParamsOf(const LayerStatistics& statistics, const QuantSpec& spec) {
  if (IsInitialized(statistics)) return LearnedQParams(statistics);
  ObserverConfig config = statistics.config();
  const bool ranges_alone = config.kind == ObserverKind::kHistogram || config.kind == ObserverKind::kLearned;
  if (ranges_alone) config = {.kind = ObserverKind::kMinMax, .channel_axis = config.channel_axis};
  LayerStatistics ranges(config);
  for (ChannelStatistics channel : statistics.channels()) {
    if (ranges_alone) channel.histogram.reset();
    ranges.mutable_channels().push_back(std::move(channel));
  }
  const absl::StatusOr<LayerQParams> params = Calibrate(ranges, {.method = CalibrationMethod::kMinMax}, spec);
  return params.ok() ? params->params : std::vector<QParams>();
}

template <typename Repeated, typename Value>
void ExpectNext(const Repeated& column, const std::vector<Value>& expected, int* next, const std::string& what) {
  const int end = *next + static_cast<int>(expected.size());
  ASSERT_LE(end, column.size()) << what;
  EXPECT_EQ(std::vector<Value>(column.begin() + *next, column.begin() + end), expected) << what;
  *next = end;
}

}  // namespace

StepOracle::StepOracle() : ranges_(SimulatedLayers().size()) {
  for (const SimulatedLayer& layer : SimulatedLayers()) layers_.emplace_back(layer.config);
}

void StepOracle::Fold(const std::vector<std::shared_ptr<const RankTensors>>& ranks) {
  given_.assign(layers_.size(), false);
  for (size_t i = 0; i < layers_.size(); ++i) {
    LayerTensor all{.layer = i};
    for (const std::shared_ptr<const RankTensors>& rank : ranks) {
      const LayerTensor* const tensor = rank->Find(i);
      if (tensor == nullptr) continue;
      given_[i] = true;
      if (tensor->channels.size() > all.channels.size()) all.channels.resize(tensor->channels.size());
      for (size_t c = 0; c < tensor->channels.size(); ++c) {
        all.channels[c].insert(all.channels[c].end(), tensor->channels[c].begin(), tensor->channels[c].end());
      }
    }
    ranges_[i].clear();
    if (!all.channels.empty()) FoldTensors(i, all);
    FoldGradients(i, ranks);
    if (layers_[i].config().kind == ObserverKind::kLearned && !IsInitialized(layers_[i])) {
      InitializeLearned(&layers_[i]).IgnoreError();  // stays without a value until there is a finite one
    }
  }
}

void StepOracle::FoldTensors(size_t layer, const LayerTensor& all) {
  LayerStatistics& state = layers_[layer];
  ObserverConfig ranges_alone = state.config();
  ranges_alone.kind = ObserverKind::kMinMax;
  const LayerStatistics ranges = Observe(ranges_alone, all.Values(), all.Shape());
  for (const ChannelStatistics& channel : ranges.channels()) ranges_[layer].push_back(channel.range);
  if (!DependsOnOrder(state.config().kind)) {
    state.Merge(Observe(state.config(), all.Values(), all.Shape()));
    return;
  }
  const Step step = MakeStep(state, all.Values(), all.Shape());
  const absl::Status status = state.CheckStep(step);
  ASSERT_TRUE(status.ok()) << status;
  state.FoldStep(step);
}

void StepOracle::FoldGradients(size_t layer, const std::vector<std::shared_ptr<const RankTensors>>& ranks) {
  std::vector<LearnedGradient> mean(SimulatedLayers()[layer].channels());
  uint64_t elements = 0;
  double weight = 0;
  for (const std::shared_ptr<const RankTensors>& rank : ranks) {
    const LayerTensor* const tensor = rank->Find(layer);
    if (tensor == nullptr || !tensor->has_gradients()) continue;
    for (size_t c = 0; c < mean.size(); ++c) {
      mean[c].scale += tensor->scale_gradients[c];
      mean[c].zero_point += tensor->zero_point_gradients[c];
    }
    elements += tensor->elements;
    weight += rank->weight == 0 ? 1 : rank->weight;
  }
  if (weight == 0) return;
  for (LearnedGradient& gradient : mean) {
    gradient.scale /= weight;
    gradient.zero_point /= weight;
  }
  const absl::Status status = CheckGradients(layers_[layer], mean, elements);
  ASSERT_TRUE(status.ok()) << status;
  ApplyGradients(&layers_[layer], mean, elements);
}

void StepOracle::ExpectResult(const v1::StepResult& result, const RankTensors& tensors,
                              const LayerHandles& handles) const {
  const std::vector<const LayerTensor*> order = InMessageOrder(tensors, handles);
  int steps = 0, params = 0, learned = 0;
  const bool one_each = result.params_size() == 0;
  ASSERT_TRUE(one_each || result.params_size() == static_cast<int>(order.size()));
  ASSERT_EQ(result.step_min_size(), result.step_max_size());
  ASSERT_EQ(result.step_min_size(), result.min_size());
  ASSERT_EQ(result.step_min_size(), result.max_size());
  ASSERT_EQ(result.scale_size(), result.zero_point_size());
  for (size_t i = 0; i < order.size(); ++i) {
    const LayerTensor& tensor = *order[i];
    const std::string& name = SimulatedLayers()[tensor.layer].name;
    const std::vector<Range>& step = ranges_[tensor.layer];
    LayerAnswer answer;
    for (size_t c = 0; !tensor.has_gradients() && c < SimulatedLayers()[tensor.layer].channels(); ++c) {
      AddRange(step.empty() ? Range() : step[c], &answer.step_min, &answer.step_max);
      AddRange(step.empty() ? Range() : RangeHeldBy(layers_[tensor.layer].channels()[c]), &answer.min, &answer.max);
    }
    // A layer that no counted rank gave is told nothing of.
    if (given_[tensor.layer]) {
      for (const QParams& each : ParamsOf(layers_[tensor.layer], SimulatedLayers()[tensor.layer].quant_spec)) {
        answer.scale.push_back(each.scale);
        answer.zero_point.push_back(each.zero_point);
      }
    }
    if (tensor.has_gradients() && given_[tensor.layer]) {
      for (const ChannelStatistics& channel : layers_[tensor.layer].channels()) {
        answer.learned_zero_point.push_back(channel.learned->zero_point);
      }
    }
    ASSERT_EQ(one_each ? 1 : result.params(static_cast<int>(i)), answer.scale.size()) << name;
    int next = steps;
    ExpectNext(result.step_min(), answer.step_min, &(next = steps), name + " step_min");
    ExpectNext(result.step_max(), answer.step_max, &(next = steps), name + " step_max");
    ExpectNext(result.min(), answer.min, &(next = steps), name + " min");
    ExpectNext(result.max(), answer.max, &(next = steps), name + " max");
    steps = next;
    ExpectNext(result.scale(), answer.scale, &(next = params), name + " scale");
    ExpectNext(result.zero_point(), answer.zero_point, &params, name + " zero_point");
    ExpectNext(result.learned_zero_point(), answer.learned_zero_point, &learned, name + " learned_zero_point");
  }
  EXPECT_EQ(steps, result.step_min_size());
  EXPECT_EQ(params, result.scale_size());
  EXPECT_EQ(learned, result.learned_zero_point_size());
}

}  // namespace calib::server::test
