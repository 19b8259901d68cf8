#include "tests/e2e/crash/workload.h"

#include <cstdlib>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "quant/observe.h"
#include "tests/support/random_tensors.h"

namespace calib::test {
namespace {

ObserverConfig Observer(ObserverKind kind, std::optional<int> channel_axis = std::nullopt) {
  return {.kind = kind, .channel_axis = channel_axis};
}

uint64_t Mixed(uint64_t seed, int worker, uint64_t step) {
  std::seed_seq sequence{seed, static_cast<uint64_t>(worker), step};
  uint32_t words[2];
  sequence.generate(words, words + 2);
  return uint64_t{words[0]} << 32 | words[1];
}

}  // namespace

TensorView WorkStep::view() const {
  return {.type = DataType::kFloat32,
          .shape = shape,
          .data = {reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(float)}};
}

const std::map<std::string, ObserverConfig>& WorkLayers() {
  static const auto* const layers = new std::map<std::string, ObserverConfig>{
      {"histogram.0", Observer(ObserverKind::kHistogram)},   {"histogram.1", Observer(ObserverKind::kHistogram)},
      {"channels.0", Observer(ObserverKind::kHistogram, 0)}, {"channels.1", Observer(ObserverKind::kHistogram, -1)},
      {"range.0", Observer(ObserverKind::kMinMax)},          {"range.1", Observer(ObserverKind::kMinMax, -1)}};
  return *layers;
}

v1::SessionConfig WorkConfig() {
  v1::SessionConfig config;
  for (const auto& [layer, observer] : WorkLayers()) {
    v1::LayerRule* const rule = config.add_rules();
    rule->set_pattern(layer);
    rule->mutable_observer()->set_kind(observer.kind == ObserverKind::kHistogram ? v1::OBSERVER_KIND_HISTOGRAM
                                                                                 : v1::OBSERVER_KIND_MINMAX);
    if (observer.channel_axis.has_value()) rule->mutable_observer()->set_channel_axis(*observer.channel_axis);
  }
  return config;
}

std::string WorkerId(int worker) { return absl::StrCat("worker-", worker); }

WorkStep StepOf(uint64_t seed, int worker, uint64_t step) {
  Rng rng(Mixed(seed, worker, step));
  WorkStep result;
  const auto layer = std::next(WorkLayers().begin(), static_cast<std::ptrdiff_t>(rng() % WorkLayers().size()));
  result.layer = layer->first;
  result.raw = rng() % 3 == 0;
  const uint64_t rows = rng() % 16 == 0 ? 4000 : 1 + rng() % 50;
  // The same channels in each step of a layer.
  result.shape = layer->second.channel_axis == 0 ? std::vector<uint64_t>{3, rows} : std::vector<uint64_t>{rows, 8};
  result.values = RandomTensor(rng, result.shape[0] * result.shape[1]);
  return result;
}

SessionStatistics SumOfSteps(uint64_t seed, const std::vector<uint64_t>& steps) {
  SessionStatistics sum;
  TensorObserver observer;
  for (size_t worker = 0; worker < steps.size(); ++worker) {
    for (uint64_t number = 1; number <= steps[worker]; ++number) {
      const WorkStep step = StepOf(seed, static_cast<int>(worker), number);
      LayerStatistics& statistics = sum.try_emplace(step.layer, WorkLayers().at(step.layer)).first->second;
      if (!observer.Observe(step.view(), &statistics).ok()) std::abort();
    }
  }
  return sum;
}

}  // namespace calib::test
