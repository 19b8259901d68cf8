#include "quant/learned_observer.h"

#include <cstddef>
#include <utility>

#include "absl/strings/str_cat.h"
#include "quant/calibrate.h"
#include "quant/learned.h"
#include "quant/quant_spec.h"

namespace calib {
namespace {

// What gradients are multiplied by.
double GradFactor(const LearnedOptions& options, int64_t qmax, uint64_t elements) {
  return options.plain_gradients ? 1 : LsqGradFactor(elements, qmax);
}

}  // namespace

QuantSpec LearnedSpec(const ObserverConfig& config) {
  QuantSpec spec = config.learned->spec;
  spec.granularity = config.channel_axis.has_value() ? QuantGranularity::kPerChannel : QuantGranularity::kPerTensor;
  return spec;
}

bool IsInitialized(const LayerStatistics& statistics) {
  return !statistics.empty() && statistics.channels().front().learned.has_value();
}

absl::Status InitializeLearned(LayerStatistics* statistics) {
  const LearnedOptions& options = *statistics->config().learned;
  // As a histogram observer's, what was collected has parameters by any method. Moved there and back, not copied.
  ObserverConfig config = statistics->config();
  config.kind = ObserverKind::kHistogram;
  LayerStatistics collected(config);
  std::swap(collected.mutable_channels(), statistics->mutable_channels());
  const absl::StatusOr<LayerQParams> initial = Calibrate(collected, options.initial, LearnedSpec(config));
  std::swap(collected.mutable_channels(), statistics->mutable_channels());
  if (!initial.ok()) return initial.status();
  for (size_t i = 0; i < initial->params.size(); ++i) {
    statistics->mutable_channels()[i].learned = InitialLearnedState(initial->rules, initial->params[i]);
  }
  return absl::OkStatus();
}

absl::Status CheckGradients(const LayerStatistics& statistics, absl::Span<const LearnedGradient> gradients,
                            uint64_t elements) {
  if (!IsInitialized(statistics)) {
    return absl::FailedPreconditionError(
        "the layer's scale has no value to learn from yet; contribute its statistics to a step first");
  }
  if (gradients.size() != statistics.channels().size()) {
    return absl::InvalidArgumentError(absl::StrCat(gradients.size(), " gradients were given for the layer's ",
                                                   statistics.channels().size(), " channels"));
  }
  const LearnedOptions& options = *statistics.config().learned;
  if (!options.plain_gradients && elements == 0) {
    return absl::InvalidArgumentError("LSQ's factor needs the number of the tensor's elements, and it is 0");
  }
  const double factor = GradFactor(options, ResolveSpec(options.spec)->qmax, elements);
  for (size_t i = 0; i < gradients.size(); ++i) {
    if (LearnedStep::IsFinite(factor, gradients[i])) continue;
    return absl::InvalidArgumentError(absl::StrCat("channel ", i, ": gradients ", gradients[i].scale,
                                                   " of the scale and ", gradients[i].zero_point,
                                                   " of the zero point must be finite in float32"));
  }
  return absl::OkStatus();
}

void ApplyGradients(LayerStatistics* statistics, absl::Span<const LearnedGradient> gradients, uint64_t elements) {
  const LearnedOptions& options = *statistics->config().learned;
  const QuantRules rules = *ResolveSpec(options.spec);
  const LearnedStep step(options, rules, GradFactor(options, rules.qmax, elements),
                         statistics->channels().front().learned->steps);
  for (size_t i = 0; i < gradients.size(); ++i) step.Apply(gradients[i], &*statistics->mutable_channels()[i].learned);
}

std::vector<QParams> LearnedQParams(const LayerStatistics& statistics) {
  std::vector<QParams> params;
  params.reserve(statistics.channels().size());
  for (const ChannelStatistics& channel : statistics.channels()) params.push_back(channel.learned->Params());
  return params;
}

}  // namespace calib
