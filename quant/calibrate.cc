#include "quant/calibrate.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "quant/bin_model.h"

namespace calib {
namespace {

bool LayerHasValues(const std::vector<ChannelStatistics>& channels) {
  return std::any_of(channels.begin(), channels.end(), [](const auto& channel) { return !channel.range.empty(); });
}

// What went wrong, for people. REQUIRES: error != kNone.
absl::Status ErrorStatus(CalibrateError error, const LayerStatistics& statistics, const MethodSpec& method,
                         const QuantSpec& spec) {
  switch (error) {
    case CalibrateError::kMethodInvalid:
      return CheckMethod(method);
    case CalibrateError::kSpecInvalid:
      return ResolveSpec(spec).status();
    case CalibrateError::kNotPerChannel:
      return absl::FailedPreconditionError(
          "per-channel parameters need statistics per channel, but this layer is observed per tensor; ask per tensor, "
          "or "
          "observe it with a channel axis");
    case CalibrateError::kNeedsHistogram:
      return absl::FailedPreconditionError(
          absl::StrCat("method ", MethodName(method.method),
                       " needs a histogram, but this layer's observer collects min and max only; use method minmax, or "
                       "observe it with a histogram"));
    case CalibrateError::kLayerEmpty:
    case CalibrateError::kNone:
      break;
  }
  uint64_t nan = 0, infinities = 0;
  for (const ChannelStatistics& channel : statistics.channels()) {
    nan += channel.range.nan;
    infinities += channel.range.infinities();
  }
  return absl::FailedPreconditionError(absl::StrCat("the layer has no finite value yet (", nan, " NaN, ", infinities,
                                                    " infinities); push data before asking for parameters"));
}

ClipRange ChooseRange(const ChannelStatistics& channel, const BinModel* model, const MethodSpec& method,
                      const QuantRules& rules) {
  switch (method.method) {
    case CalibrationMethod::kPercentile:
      return PercentileRange(*model, rules.symmetric, method.percentile, method.one_sided);
    case CalibrationMethod::kCoverage:
      return CoverageRange(*model, method.coverage);
    case CalibrationMethod::kMse:
      return MseRange(*model, rules, method.norm);
    case CalibrationMethod::kEntropy:
    case CalibrationMethod::kL2Greedy:
    case CalibrationMethod::kLsq:
    case CalibrationMethod::kLsqPlus:
    case CalibrationMethod::kMinMax:
      break;
  }
  return MinMaxRange(channel.range);
}

// Adds the parameters of one channel, or of the whole layer.
void AddChannel(const ChannelStatistics& channel, const MethodSpec& method, LayerQParams* result) {
  if (channel.range.empty()) {
    result->clip.push_back({});
    result->params.push_back(ParamsForRange(result->rules, {}));
    return;
  }
  std::optional<BinModel> model;
  if (channel.histogram.has_value()) model.emplace(channel);
  QuantRules rules = result->rules;
  // With the floors a searched scale would not be the best any more: a tensor of magnitude 1e-6 would lose all but a few
  // of its codes.
  if (method.method == CalibrationMethod::kMse && model->square_sum() > 0) {
    rules = WithoutFloors(rules);
  }
  result->clip.push_back(ChooseRange(channel, model.has_value() ? &*model : nullptr, method, rules));
  result->params.push_back(ParamsForRange(rules, result->clip.back()));
  if (!model.has_value()) return;
  if (!result->error.has_value()) result->error.emplace();
  result->error->Add(EvaluateError(*model, rules, result->params.back()));
}

}  // namespace

CalibrateError CheckCalibrate(const LayerStatistics& statistics, const MethodSpec& method, const QuantSpec& spec) {
  if (!CheckMethod(method).ok()) return CalibrateError::kMethodInvalid;
  if (!ResolveSpec(spec).ok()) return CalibrateError::kSpecInvalid;
  if (spec.granularity == QuantGranularity::kPerChannel && !statistics.config().channel_axis.has_value()) {
    return CalibrateError::kNotPerChannel;
  }
  if (NeedsHistogram(method.method) && statistics.config().kind != ObserverKind::kHistogram) {
    return CalibrateError::kNeedsHistogram;
  }
  if (!LayerHasValues(statistics.channels())) return CalibrateError::kLayerEmpty;
  return CalibrateError::kNone;
}

absl::StatusOr<LayerQParams> Calibrate(const LayerStatistics& statistics, const MethodSpec& method,
                                       const QuantSpec& spec) {
  const CalibrateError error = CheckCalibrate(statistics, method, spec);
  if (error != CalibrateError::kNone) return ErrorStatus(error, statistics, method, spec);
  LayerQParams result;
  for (const ChannelStatistics& channel : statistics.channels()) {
    if (absl::Status status = result.range.CheckMerge(channel.range); !status.ok()) return status;
    result.range.Merge(channel.range);
  }
  result.rules = *ResolveSpec(ResolveAuto(spec, result.range.min));
  if (spec.granularity == QuantGranularity::kPerChannel) {
    for (const ChannelStatistics& channel : statistics.channels()) AddChannel(channel, method, &result);
    return result;
  }
  if (statistics.channels().size() == 1) {
    AddChannel(statistics.channels()[0], method, &result);
    return result;
  }
  const absl::StatusOr<ChannelStatistics> merged = statistics.MergedChannels();
  if (!merged.ok()) return merged.status();
  AddChannel(*merged, method, &result);
  return result;
}

}  // namespace calib
