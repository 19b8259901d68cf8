#include "tests/engine/step_tensors.h"

#include <algorithm>
#include <limits>

#include "gtest/gtest.h"
#include "proto/codec/statistics_codec.h"
#include "tests/engine/engine_fixture.h"

namespace calib::server::test {
namespace {

using calib::test::Rng;

ObserverConfig SmallReference(ReferenceRule rule, uint32_t bins) {
  return {.kind = ObserverKind::kReferenceHistogram, .reference = {rule, bins, 1 << 22}};
}

ObserverConfig Learned(LearnedOptions options, std::optional<int> channel_axis) {
  return {.kind = ObserverKind::kLearned, .channel_axis = channel_axis, .learned = std::move(options)};
}

QuantSpec Affine8() { return {.type = {.bits = 8, .is_signed = false}, .scheme = QuantScheme::kAffine}; }

float RandomValue(Rng* rng, uint64_t step, bool only_specials) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  switch (only_specials ? (*rng)() % 3 : (*rng)() % 40) {
    case 0:
      return std::numeric_limits<float>::quiet_NaN();
    case 1:
      return kInfinity;
    case 2:
      return -kInfinity;
    case 3:
      return -0.0f;
    default:
      return (static_cast<float>((*rng)() % 20001) - 9000) / 8192 * static_cast<float>(1 + step / 4);
  }
}

double RandomGradient(Rng* rng) { return (static_cast<double>((*rng)() % 2001) - 1000) / 7; }

}  // namespace

const std::vector<SimulatedLayer>& SimulatedLayers() {
  static const auto* const layers = new std::vector<SimulatedLayer>{
      {"histogram", kHistogramConfig, {}},
      {"channels", kChannelsConfig, {.granularity = QuantGranularity::kPerChannel}},
      {"minmax", kMinMaxConfig, Affine8()},
      {"ema", kEmaConfig, {}},
      {"ema.pytorch", {.kind = ObserverKind::kEma, .ema = {EmaConvention::kPytorch, 0.25}}, Affine8()},
      {"ema.channels", kEmaChannelsConfig, {.granularity = QuantGranularity::kPerChannel}},
      {"megengine", SmallReference(ReferenceRule::kMegengine, 64), {}},
      {"pytorch", SmallReference(ReferenceRule::kPytorch, 64), Affine8()},
      {"pytorch_current", SmallReference(ReferenceRule::kPytorchCurrent, 64), {}},
      {"mxnet", SmallReference(ReferenceRule::kMxnet, 65), {}},
      {"learned", Learned({.momentum = 0.5}, std::nullopt), {}},
      {"learned.channels",
       Learned({.optimizer = LearnedOptimizer::kAdam,
                .learning_rate = 0.125,
                .plain_gradients = true,
                .initial = {.method = CalibrationMethod::kMinMax},
                .spec = Affine8()},
               0),
       Affine8()},
  };
  return *layers;
}

std::vector<float> LayerTensor::Values() const {
  std::vector<float> values;
  for (const std::vector<float>& channel : channels) values.insert(values.end(), channel.begin(), channel.end());
  return values;
}

std::vector<uint64_t> LayerTensor::Shape() const {
  if (SimulatedLayers()[layer].channels() == 1) return {channels[0].size()};
  return {channels.size(), channels[0].size()};
}

const LayerTensor* RankTensors::Find(size_t layer) const {
  const auto found =
      std::find_if(layers.begin(), layers.end(), [layer](const LayerTensor& tensor) { return tensor.layer == layer; });
  return found == layers.end() ? nullptr : &*found;
}

std::shared_ptr<const RankTensors> RandomTensors(Rng* rng, uint64_t step, const LayerSet& layers,
                                                 const LayerSet& initialized) {
  auto tensors = std::make_shared<RankTensors>();
  tensors->weight = static_cast<double>((*rng)() % 4);
  for (size_t i = 0; i < SimulatedLayers().size(); ++i) {
    if (!layers[i] || (*rng)() % 6 == 0) continue;  // a rank may leave layers out
    LayerTensor& tensor = tensors->layers.emplace_back();
    tensor.layer = i;
    const size_t channels = SimulatedLayers()[i].channels();
    if (initialized[i]) {
      for (size_t c = 0; c < channels; ++c) {
        tensor.scale_gradients.push_back(RandomGradient(rng));
        tensor.zero_point_gradients.push_back(RandomGradient(rng));
      }
      tensor.elements = 1 + (*rng)() % 1000;
      continue;
    }
    const size_t elements = (*rng)() % 7;
    const bool only_specials = (*rng)() % 12 == 0;
    tensor.channels.resize(channels);
    for (std::vector<float>& channel : tensor.channels) {
      for (size_t k = 0; k < elements; ++k) channel.push_back(RandomValue(rng, step, only_specials));
    }
  }
  return tensors;
}

std::vector<const LayerTensor*> InMessageOrder(const RankTensors& tensors, const LayerHandles& handles) {
  std::vector<const LayerTensor*> order;
  for (const LayerTensor& tensor : tensors.layers) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [&handles](const LayerTensor* a, const LayerTensor* b) {
    return std::pair(a->has_gradients(), handles[a->layer]) < std::pair(b->has_gradients(), handles[b->layer]);
  });
  return order;
}

v1::ObserveRequest ContributionRequest(uint64_t world_epoch, uint64_t step, const RankTensors& tensors,
                                       const LayerHandles& handles) {
  v1::ObserveRequest request;
  v1::StepContribution* const contribution = request.mutable_step_contribution();
  contribution->set_world_epoch(world_epoch);
  contribution->set_step(step);
  StatisticsWriter writer;
  for (const LayerTensor* const tensor : InMessageOrder(tensors, handles)) {
    const ObserverConfig& config = SimulatedLayers()[tensor->layer].config;
    const uint32_t handle = handles[tensor->layer];
    if (tensor->has_gradients()) {
      v1::GradientBatch* const gradients = contribution->mutable_gradients();
      gradients->add_layer(handle);
      gradients->add_channels(static_cast<uint32_t>(tensor->scale_gradients.size()));
      gradients->add_elements(tensor->elements);
      for (const double gradient : tensor->scale_gradients) gradients->add_scale(gradient);
      for (const double gradient : tensor->zero_point_gradients) gradients->add_zero_point(gradient);
      gradients->set_weight(tensors.weight);
    } else if (DependsOnOrder(config.kind)) {
      ObserverConfig ranges_alone = config;
      ranges_alone.kind = ObserverKind::kMinMax;
      Step step_ranges;
      const LayerStatistics observed = Observe(ranges_alone, tensor->Values(), tensor->Shape());
      for (const ChannelStatistics& channel : observed.channels()) step_ranges.ranges.push_back(channel.range);
      writer.AddStep(handle, step_ranges, /*reference_histogram=*/false, contribution->mutable_statistics());
    } else {
      // A learned layer's are a histogram's.
      ObserverConfig observed = config;
      if (config.kind == ObserverKind::kLearned) observed.kind = ObserverKind::kHistogram;
      writer.Add(handle, Observe(observed, tensor->Values(), tensor->Shape()), contribution->mutable_statistics());
    }
  }
  return request;
}

v1::ObserveRequest CountsRequest(const v1::StepGrids& grids, const RankTensors& tensors, const LayerHandles& handles) {
  v1::ObserveRequest request;
  v1::StepCounts* const counts = request.mutable_step_counts();
  counts->set_world_epoch(grids.world_epoch());
  counts->set_step(grids.step());
  for (const LayerTensor* const tensor : InMessageOrder(tensors, handles)) {
    const ObserverConfig& config = SimulatedLayers()[tensor->layer].config;
    if (config.kind != ObserverKind::kReferenceHistogram) continue;
    EXPECT_LT(counts->count_size(), grids.grid_size());
    if (counts->count_size() >= grids.grid_size()) return request;
    const v1::StepGrid& grid = grids.grid(counts->count_size());
    const std::vector<float> values = tensor->Values();
    TensorView view;
    view.data = absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(float));
    std::vector<uint64_t> counted;
    if (grid.bins() > 0) {
      const ReferenceGrid on{grid.low(), grid.high(), grid.bins()};
      const absl::Status status = CountOnGrid(config.reference.rule, on, view, &counted);
      EXPECT_TRUE(status.ok()) << status;
    }
    v1::StepCount* const count = counts->add_count();
    *count->mutable_grid() = grid;
    count->mutable_count()->Add(counted.begin(), counted.end());
  }
  EXPECT_EQ(counts->count_size(), grids.grid_size());
  return request;
}

}  // namespace calib::server::test
