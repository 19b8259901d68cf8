#ifndef CALIB_TESTS_ENGINE_STEP_TENSORS_H_
#define CALIB_TESTS_ENGINE_STEP_TENSORS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "calib/v1/observe.pb.h"
#include "quant/observer_config.h"
#include "quant/quant_spec.h"
#include "tests/support/random_tensors.h"

namespace calib::server::test {

// A layer of the simulated sessions.
struct SimulatedLayer {
  std::string name;
  ObserverConfig config;
  QuantSpec quant_spec;

  size_t channels() const { return config.channel_axis.has_value() ? 3 : 1; }
};

// One of each observer, per tensor and per channel.
const std::vector<SimulatedLayer>& SimulatedLayers();

// What a rank has of one layer in one step: a tensor, channel by channel and each as long; or gradients.
struct LayerTensor {
  size_t layer = 0;  // of SimulatedLayers()
  std::vector<std::vector<float>> channels;
  // Of a learned layer, one a channel; then there is no tensor.
  std::vector<double> scale_gradients;
  std::vector<double> zero_point_gradients;
  uint64_t elements = 0;

  bool has_gradients() const { return !scale_gradients.empty(); }
  // The tensor, row-major, and its shape.
  std::vector<float> Values() const;
  std::vector<uint64_t> Shape() const;
};

// What a rank has in one step: layers rise.
struct RankTensors {
  std::vector<LayerTensor> layers;
  double weight = 0;  // of the gradients

  const LayerTensor* Find(size_t layer) const;
};

// Which layers take part, by index.
using LayerSet = std::vector<bool>;

// Random tensors of some of these layers: of every kind, some without elements or without finite values, wider in later
// steps. Layers in `initialized` get gradients.
std::shared_ptr<const RankTensors> RandomTensors(calib::test::Rng* rng, uint64_t step, const LayerSet& layers,
                                                 const LayerSet& initialized);

// A stream's handle of each layer of SimulatedLayers().
using LayerHandles = std::vector<uint32_t>;

// The layers of `tensors` in the order in which a contribution has them: by handle, gradients last.
std::vector<const LayerTensor*> InMessageOrder(const RankTensors& tensors, const LayerHandles& handles);
// The message that contributes them.
v1::ObserveRequest ContributionRequest(uint64_t world_epoch, uint64_t step, const RankTensors& tensors,
                                       const LayerHandles& handles);
// The answer to grids for them.
v1::ObserveRequest CountsRequest(const v1::StepGrids& grids, const RankTensors& tensors, const LayerHandles& handles);

}  // namespace calib::server::test

#endif  // CALIB_TESTS_ENGINE_STEP_TENSORS_H_
