#ifndef CALIB_TESTS_CLIENT_STEPS_FIXTURE_H_
#define CALIB_TESTS_CLIENT_STEPS_FIXTURE_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "proto/codec/config_codec.h"
#include "proto/codec/statistics_codec.h"
#include "quant/observe.h"
#include "quant/reference_histogram.h"
#include "tests/client/client_fixture.h"
#include "tests/support/random_tensors.h"

namespace calib::client {

// Sessions whose layers have observers that depend on order.
class StepsFixture : public ClientFixture {
 protected:
  static SessionConfig StepConfig() {
    const auto reference = [](ReferenceRule rule, uint32_t bins) {
      return ObserverConfig{.kind = ObserverKind::kReferenceHistogram, .reference = {rule, bins, 0}};
    };
    std::vector<ObserverRules::Rule> rules = {
        {"ema.channels*", ObserverConfig{.kind = ObserverKind::kEma, .channel_axis = 1}, {}},
        {"ema*", ObserverConfig{.kind = ObserverKind::kEma, .ema = {EmaConvention::kPytorch, 0.25}}, {}},
        {"megengine*", reference(ReferenceRule::kMegengine, 128), {}},
        {"pytorch_current*", reference(ReferenceRule::kPytorchCurrent, 128), {}},
        {"pytorch*", reference(ReferenceRule::kPytorch, 128), {}},
        {"mxnet*", reference(ReferenceRule::kMxnet, 129), {}},
        {"wide*", reference(ReferenceRule::kMxnet, 8001), {}},
        {"small*", {{.kind = ObserverKind::kReferenceHistogram, .reference = {ReferenceRule::kMxnet, 65, 129}}}, {}},
        {"passive*", ObserverConfig{.kind = ObserverKind::kPassive}, {}},
        {"debug*", std::nullopt, {}},
        {"*", ObserverConfig{}, {}}};
    return {.rules = ObserverRules(std::move(rules))};
  }
  void CreateStepSession(const std::string& name) { CreateSession(name, EncodeSessionConfig(StepConfig())); }

  // The tensor of step `i` of `layer`: the same for the same arguments; the scale grows with i.
  static Tensor StepTensor(const std::string& layer, uint64_t i) {
    calib::test::Rng rng(std::hash<std::string>()(layer) + i);
    Tensor tensor{{5, 3}, std::vector<float>(15)};
    for (float& value : tensor.values) {
      value = (static_cast<float>(rng() % 2001) - 900) / 128 * static_cast<float>(1 + i / 5);
    }
    if (i % 6 == 4) tensor.values[rng() % 15] = std::numeric_limits<float>::quiet_NaN();
    return tensor;
  }

  // What the session must hold: steps folded in, one by one.
  class Expected {
   public:
    void Fold(const std::string& layer, const Tensor& tensor) {
      const ObserverConfig observer = *StepConfig().rules.Match(layer);
      LayerStatistics& statistics = layers_.try_emplace(layer, observer).first->second;
      ObserverConfig ranges_alone = observer;
      ranges_alone.kind = ObserverKind::kMinMax;
      LayerStatistics ranges(ranges_alone);
      ASSERT_TRUE(observer_.Observe(tensor.view(), &ranges).ok());
      Step step;
      for (const ChannelStatistics& channel : ranges.channels()) step.ranges.push_back(channel.range);
      if (observer.kind == ObserverKind::kReferenceHistogram) {
        step.grid = statistics.NextGrid(step.ranges.front()).value();
        ASSERT_TRUE(CountOnGrid(observer.reference.rule, step.grid, tensor.view(), &step.counts).ok());
      }
      ASSERT_TRUE(statistics.CheckStep(step).ok()) << statistics.CheckStep(step);
      statistics.FoldStep(step);
    }
    // As GetStatistics answers it.
    std::string Bytes() const {
      v1::GetStatisticsResponse response;
      StatisticsWriter writer;
      for (const auto& [name, statistics] : layers_) {
        const auto handle = static_cast<uint32_t>(response.layer_size());
        writer.Add(handle, statistics, response.mutable_statistics());
        response.add_layer(name);
        *response.add_observer() = EncodeObserverConfig(statistics.config());
      }
      return response.SerializeAsString();
    }

   private:
    TensorObserver observer_;
    std::map<std::string, LayerStatistics> layers_;
  };

  // Names with * and ? match each other as patterns.
  const std::vector<std::string> layers_ = {"ema",     "ema.channels", "megengine", "mxnet",  "mxnet.*",
                                            "mxnet.?", "mxnet.a",      "pytorch",   "mxnet*", "pytorch_current"};
};

}  // namespace calib::client

#endif  // CALIB_TESTS_CLIENT_STEPS_FIXTURE_H_
