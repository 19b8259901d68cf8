#include "tests/support/random_states.h"

#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>

#include "quant/learned_observer.h"
#include "quant/observe.h"

namespace calib::test {
namespace {

void CheckOk(const absl::Status& status) {
  if (!status.ok()) std::abort();
}

TensorView ViewOf(const std::vector<float>& values, absl::Span<const uint64_t> shape) {
  TensorView view;
  view.shape = shape;
  view.data = absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(float));
  return view;
}

LayerStatistics ObserveValues(const ObserverConfig& observer, const std::vector<float>& values, uint64_t channels) {
  LayerStatistics statistics(observer);
  const std::array<uint64_t, 2> shape = {values.size() / channels, channels};
  TensorObserver tensor_observer;
  CheckOk(tensor_observer.Observe(ViewOf(values, shape), &statistics));
  return statistics;
}

// Adds so many values that counts need all of their bits.
void AddHuge(Rng& rng, ChannelStatistics* channel) {
  constexpr float kValue = 1.5f;
  const uint64_t left = std::numeric_limits<uint64_t>::max() - channel->range.values();
  const uint64_t more = rng() % 2 == 0 ? left : rng() % left;
  channel->range.Merge({.min = kValue, .max = kValue, .count = more});
  if (!channel->histogram.has_value()) return;
  const int drop = Bfloat16Histogram::kMaxMantissaBits - channel->histogram->mantissa_bits();
  channel->histogram->AddKey(Bfloat16Key(kValue) >> drop, more);
}

// Values on which no reference histogram has to grow beyond its bounds.
std::vector<float> StepValues(Rng& rng, size_t elements) {
  std::vector<float> values(elements);
  for (float& value : values) {
    value = rng() % 9 == 0 ? std::numeric_limits<float>::quiet_NaN() : (static_cast<float>(rng() % 2001) - 1000) / 64;
  }
  return values;
}

void FoldRandomStep(Rng& rng, uint64_t channels, LayerStatistics* statistics) {
  ObserverConfig ranges = statistics->config();
  ranges.kind = ObserverKind::kMinMax;
  const std::vector<float> values = StepValues(rng, rng() % 7 == 0 ? 0 : channels * (1 + rng() % 30));
  Step step;
  const LayerStatistics observed = ObserveValues(ranges, values, channels);
  for (const ChannelStatistics& channel : observed.channels()) step.ranges.push_back(channel.range);
  if (statistics->config().kind == ObserverKind::kReferenceHistogram) {
    step.grid = statistics->NextGrid(step.ranges.front()).value();
    CheckOk(CountOnGrid(statistics->config().reference.rule, step.grid, ViewOf(values, {}), &step.counts));
  }
  CheckOk(statistics->CheckStep(step));
  statistics->FoldStep(step);
}

void Learn(Rng& rng, LayerStatistics* statistics) {
  if (!InitializeLearned(statistics).ok()) return;  // some channel has no values
  for (uint64_t steps = rng() % 4; steps > 0; --steps) {
    std::vector<LearnedGradient> gradients(statistics->channels().size());
    for (LearnedGradient& gradient : gradients) {
      gradient = {std::ldexp(static_cast<double>(rng() % 2001) - 1000, -12),
                  std::ldexp(static_cast<double>(rng() % 2001) - 1000, -9)};
    }
    ApplyGradients(statistics, gradients, 64);
  }
}

LearnedOptions LearnedBy(LearnedOptimizer optimizer, QuantScheme scheme) {
  LearnedOptions options;
  options.optimizer = optimizer;
  options.learning_rate = DefaultLearningRate(optimizer);
  if (optimizer == LearnedOptimizer::kSgd) options.momentum = 0.5;
  options.spec.scheme = scheme;
  options.initial = DefaultLearnedInitial(scheme);
  return options;
}

}  // namespace

std::vector<ObserverConfig> EveryObserver(int mantissa_bits) {
  std::vector<ObserverConfig> observers;
  for (const bool per_channel : {false, true}) {
    ObserverConfig observer;
    observer.mantissa_bits = mantissa_bits;
    if (per_channel) observer.channel_axis = 1;
    for (const ObserverKind kind : {ObserverKind::kHistogram, ObserverKind::kMinMax}) {
      observer.kind = kind;
      observers.push_back(observer);
    }
    observer.kind = ObserverKind::kEma;
    for (const EmaOptions& options : {EmaOptions{}, EmaOptions{EmaConvention::kPytorch, 0.25}}) {
      observers.push_back(observer);
      observers.back().ema = options;
    }
    observer.kind = ObserverKind::kLearned;
    for (const LearnedOptimizer optimizer : {LearnedOptimizer::kSgd, LearnedOptimizer::kAdam}) {
      for (const QuantScheme scheme : {QuantScheme::kSymmetric, QuantScheme::kAffine}) {
        observers.push_back(observer);
        observers.back().learned = LearnedBy(optimizer, scheme);
        if (per_channel) observers.back().learned->spec.granularity = QuantGranularity::kPerChannel;
      }
    }
    if (per_channel) continue;
    observer.kind = ObserverKind::kPassive;
    observers.push_back(observer);
    observer.kind = ObserverKind::kReferenceHistogram;
    for (const ReferenceRule rule :
         {ReferenceRule::kMegengine, ReferenceRule::kPytorch, ReferenceRule::kPytorchCurrent, ReferenceRule::kMxnet}) {
      observers.push_back(observer);
      observers.back().reference = {.rule = rule, .bins = 65};
    }
  }
  return observers;
}

LayerStatistics RandomState(Rng& rng, const ObserverConfig& observer) {
  LayerStatistics state(observer);
  if (rng() % 10 == 0) return state;
  const uint64_t channels = observer.channel_axis.has_value() ? 1 + rng() % 5 : 1;
  if (observer.kind == ObserverKind::kPassive) {
    std::vector<QParams> params(1 + rng() % 4);
    for (QParams& param : params) {
      param = {std::ldexp(1.0f + static_cast<float>(rng() % 1000) / 1000, -static_cast<int>(rng() % 140)),
               static_cast<int64_t>(rng())};
    }
    state.SetPassive(params);
    return state;
  }
  if (DependsOnOrder(observer.kind)) {
    for (uint64_t steps = 1 + rng() % 5; steps > 0; --steps) FoldRandomStep(rng, channels, &state);
    return state;
  }
  const size_t values = rng() % 6 == 0 ? 0 : channels * (1 + rng() % 40);
  state = ObserveValues(observer, RandomTensor(rng, values, rng() % 2 == 0), channels);
  if (observer.kind == ObserverKind::kLearned && rng() % 3 != 0) Learn(rng, &state);
  if (rng() % 4 == 0) AddHuge(rng, &state.mutable_channels()[rng() % channels]);
  return state;
}

}  // namespace calib::test
