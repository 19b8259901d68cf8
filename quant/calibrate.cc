#include "quant/calibrate.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "quant/bin_model.h"
#include "quant/learned.h"
#include "quant/learned_observer.h"
#include "quant/methods.h"

namespace calib {
namespace {

bool LayerHasValues(const std::vector<ChannelStatistics>& channels) {
  return std::any_of(channels.begin(), channels.end(), [](const auto& channel) { return !channel.range.empty(); });
}

// One channel, or the whole layer, as methods see it.
struct Data {
  Range range;  // whose extremes are those that the observer answers with
  std::optional<BinModel> model;
  const ReferenceHistogram* reference = nullptr;
  bool negative = false;  // some value is below zero
};

Data DataOf(const ChannelStatistics& channel) {
  Data data{.range = channel.ObservedRange()};
  if (channel.range.empty()) return data;
  data.negative = channel.range.min < 0;
  if (channel.histogram.has_value()) data.model.emplace(channel);
  if (channel.reference.has_value()) {
    data.reference = &*channel.reference;
    data.model = ModelOf(*data.reference);
  }
  return data;
}

ClipRange ChooseRange(const Data& data, const MethodSpec& method, const QuantSpec& spec, const QuantRules& rules) {
  switch (method.method) {
    case CalibrationMethod::kPercentile:
      return PercentileRange(*data.model, rules.symmetric, method.percentile, method.one_sided);
    case CalibrationMethod::kCoverage:
      return CoverageRange(*data.model, data.reference, method.coverage);
    case CalibrationMethod::kMse:
      return MseRange(*data.model, rules, method.norm);
    case CalibrationMethod::kEntropy:
      return EntropyRange(*data.model, data.reference, method.entropy_variant, spec.type, data.negative);
    case CalibrationMethod::kL2Greedy:
      return L2GreedyRange(*data.model, data.reference, spec, rules);
    case CalibrationMethod::kLsq:
    case CalibrationMethod::kLsqPlus: {
      const double scale = method.method == CalibrationMethod::kLsq ? LsqInitialScale(*data.model, rules.qmax)
                                                                    : LsqPlusInitialScale(*data.model, rules);
      const double amplitude = scale * rules.symmetric_divisor();
      return {0 - amplitude, amplitude};
    }
    case CalibrationMethod::kMinMax:
      break;
  }
  return MinMaxRange(data.range);
}

// Adds the parameters of one channel, or of the whole layer.
void AddData(const Data& data, const MethodSpec& method, const QuantSpec& spec, LayerQParams* result) {
  if (data.range.empty()) {
    result->clip.push_back({});
    result->params.push_back(ParamsForRange(result->rules, {}));
    return;
  }
  QuantRules rules = result->rules;
  // With the floors a searched scale would not be the best any more: a tensor of magnitude 1e-6 would lose all but a
  // few of its codes.
  if (method.method == CalibrationMethod::kMse && data.model->square_sum() > 0) rules = WithoutFloors(rules);
  result->clip.push_back(ChooseRange(data, method, spec, rules));
  result->params.push_back(ParamsForRange(rules, result->clip.back()));
  if (!data.model.has_value()) return;
  if (!result->error.has_value()) result->error.emplace();
  result->error->Add(EvaluateError(*data.model, rules, result->params.back()));
}

// All channels of an observer without histograms as one.
Data MergedRanges(const std::vector<ChannelStatistics>& channels) {
  Data merged;
  for (const ChannelStatistics& channel : channels) merged.range.Merge(channel.ObservedRange());
  return merged;
}

// Adds parameters that were not computed from the statistics, and the range that they stand for.
void AddGiven(const QParams& params, LayerQParams* result) {
  const QuantRules& rules = result->rules;
  result->params.push_back(params);
  result->clip.push_back({std::min(0.0, params.scale * static_cast<double>(rules.qmin - params.zero_point)),
                          std::max(0.0, params.scale * static_cast<double>(rules.qmax - params.zero_point))});
}

LayerQParams PassiveParams(const LayerStatistics& statistics, const QuantSpec& spec) {
  LayerQParams result;
  result.spec = ResolveAuto(spec, -1);  // nothing is known of the values
  if (statistics.channels().size() > 1) result.spec.granularity = QuantGranularity::kPerChannel;
  result.rules = *ResolveSpec(result.spec);
  for (const ChannelStatistics& channel : statistics.channels()) AddGiven(*channel.passive, &result);
  return result;
}

// `result` has the range of the whole layer.
void AddLearned(const LayerStatistics& statistics, LayerQParams* result) {
  result->spec = LearnedSpec(statistics.config());
  result->rules = *ResolveSpec(result->spec);
  for (const ChannelStatistics& channel : statistics.channels()) {
    AddGiven(channel.learned->Params(), result);
    if (channel.range.empty()) continue;
    if (!result->error.has_value()) result->error.emplace();
    result->error->Add(EvaluateError(BinModel(channel), result->rules, result->params.back()));
  }
}

// What went wrong, for people. REQUIRES: error != kNone.
absl::Status ErrorStatus(CalibrateError error, const LayerStatistics& statistics, const MethodSpec& method,
                         const QuantSpec& spec) {
  switch (error) {
    case CalibrateError::kMethodInvalid:
      return CheckMethod(method);
    case CalibrateError::kSpecInvalid:
      return ResolveSpec(spec).ok() ? CheckMethodForSpec(method, spec) : ResolveSpec(spec).status();
    case CalibrateError::kNotPerChannel:
      return absl::FailedPreconditionError(
          "per-channel parameters need statistics per channel, but this layer is observed per tensor; ask per tensor, "
          "or observe it with a channel axis");
    case CalibrateError::kNeedsHistogram:
      return absl::FailedPreconditionError(
          absl::StrCat("method ", MethodName(method.method),
                       " needs a histogram, but this layer's observer collects min and max only; use method minmax, or "
                       "observe it with a histogram"));
    case CalibrateError::kLayerEmpty:
    case CalibrateError::kNone:
      break;
  }
  if (statistics.config().kind == ObserverKind::kPassive) {
    return absl::FailedPreconditionError("the layer's observer is passive and was given no parameters yet; set them");
  }
  if (statistics.config().kind == ObserverKind::kLearned) {
    return absl::FailedPreconditionError(
        "the layer's scale is learned and has no value to begin from yet; contribute its statistics to a step");
  }
  uint64_t nan = 0, infinities = 0;
  for (const ChannelStatistics& channel : statistics.channels()) {
    nan += channel.range.nan;
    infinities += channel.range.infinities();
  }
  return absl::FailedPreconditionError(absl::StrCat("the layer has no finite value yet (", nan, " NaN, ", infinities,
                                                    " infinities); push data before asking for parameters"));
}

}  // namespace

CalibrateError CheckCalibrate(const LayerStatistics& statistics, const MethodSpec& method, const QuantSpec& spec) {
  if (!CheckMethod(method).ok()) return CalibrateError::kMethodInvalid;
  if (!ResolveSpec(spec).ok() || !CheckMethodForSpec(method, spec).ok()) return CalibrateError::kSpecInvalid;
  if (statistics.config().kind == ObserverKind::kPassive) {
    return statistics.empty() ? CalibrateError::kLayerEmpty : CalibrateError::kNone;
  }
  if (statistics.config().kind == ObserverKind::kLearned) {
    return IsInitialized(statistics) ? CalibrateError::kNone : CalibrateError::kLayerEmpty;
  }
  if (spec.granularity == QuantGranularity::kPerChannel && !statistics.config().channel_axis.has_value()) {
    return CalibrateError::kNotPerChannel;
  }
  if (NeedsHistogram(method.method) && statistics.config().kind != ObserverKind::kHistogram &&
      statistics.config().kind != ObserverKind::kReferenceHistogram) {
    return CalibrateError::kNeedsHistogram;
  }
  if (!LayerHasValues(statistics.channels())) return CalibrateError::kLayerEmpty;
  return CalibrateError::kNone;
}

absl::StatusOr<LayerQParams> Calibrate(const LayerStatistics& statistics, const MethodSpec& method,
                                       const QuantSpec& spec, const std::function<bool()>& abandoned) {
  const CalibrateError error = CheckCalibrate(statistics, method, spec);
  if (error != CalibrateError::kNone) return ErrorStatus(error, statistics, method, spec);
  if (statistics.config().kind == ObserverKind::kPassive) return PassiveParams(statistics, spec);
  LayerQParams result;
  for (const ChannelStatistics& channel : statistics.channels()) {
    if (absl::Status status = result.range.CheckMerge(channel.range); !status.ok()) return status;
    result.range.Merge(channel.range);
  }
  if (statistics.config().kind == ObserverKind::kLearned) {
    AddLearned(statistics, &result);
    return result;
  }
  result.spec = ResolveAuto(spec, result.range.min);
  result.rules = *ResolveSpec(result.spec);
  if (spec.granularity == QuantGranularity::kPerChannel || statistics.channels().size() == 1) {
    for (const ChannelStatistics& channel : statistics.channels()) {
      if (abandoned && abandoned()) return absl::CancelledError("the parameters are not wanted any more");
      AddData(DataOf(channel), method, result.spec, &result);
    }
    return result;
  }
  if (statistics.config().kind != ObserverKind::kHistogram) {
    AddData(MergedRanges(statistics.channels()), method, result.spec, &result);
    return result;
  }
  const absl::StatusOr<ChannelStatistics> merged = statistics.MergedChannels();
  if (!merged.ok()) return merged.status();
  AddData(DataOf(*merged), method, result.spec, &result);
  return result;
}

std::vector<QParams> MinMaxParams(const LayerStatistics& statistics, const QuantSpec& spec) {
  const std::vector<ChannelStatistics>& channels = statistics.channels();
  if (CheckCalibrate(statistics, {CalibrationMethod::kMinMax}, spec) != CalibrateError::kNone) return {};
  if (statistics.config().kind == ObserverKind::kPassive) return PassiveParams(statistics, spec).params;
  if (statistics.config().kind == ObserverKind::kLearned) return LearnedQParams(statistics);
  float least = 0;
  for (const ChannelStatistics& channel : channels) {
    if (!channel.range.empty()) least = std::min(least, channel.range.min);
  }
  const QuantRules rules = *ResolveSpec(ResolveAuto(spec, least));
  if (spec.granularity != QuantGranularity::kPerChannel && channels.size() != 1) {
    return {ParamsForRange(rules, MinMaxRange(MergedRanges(channels).range))};
  }
  std::vector<QParams> params;
  params.reserve(channels.size());
  for (const ChannelStatistics& channel : channels) {
    params.push_back(ParamsForRange(rules, channel.range.empty() ? ClipRange{} : MinMaxRange(channel.ObservedRange())));
  }
  return params;
}

}  // namespace calib
