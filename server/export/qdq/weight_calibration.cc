#include "server/export/qdq/weight_calibration.h"

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

#include "proto/codec/error.h"
#include "quant/calibrate.h"
#include "quant/observe.h"

namespace calib::server {
namespace {

// The values of one channel, together.
void GatherChannel(absl::Span<const float> values, size_t channel, size_t channels, size_t inner,
                   std::vector<float>* gathered) {
  gathered->clear();
  for (size_t begin = channel * inner; begin < values.size(); begin += channels * inner) {
    gathered->insert(gathered->end(), values.begin() + begin, values.begin() + begin + inner);
  }
}

absl::StatusOr<LayerQParams> CalibrateValues(absl::Span<const float> values, const MethodSpec& method,
                                             const QuantSpec& spec, const std::function<bool()>& abandoned,
                                             TensorObserver* observer) {
  LayerStatistics statistics(
      {.kind = NeedsHistogram(method.method) ? ObserverKind::kHistogram : ObserverKind::kMinMax});
  const uint64_t shape[] = {values.size()};
  const TensorView tensor{.shape = shape,
                          .data = {reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(float)}};
  if (absl::Status status = observer->Observe(tensor, &statistics); !status.ok()) return status;
  return Calibrate(statistics, method, spec, abandoned);
}

}  // namespace

absl::Status CheckWeightSpec(const MethodSpec& method, const QuantSpec& spec) {
  absl::Status status = CheckMethod(method);
  status.Update(ResolveSpec(spec).status());
  if (status.ok()) status = CheckMethodForSpec(method, spec);
  return status.ok() ? status : MakeError(v1::ERROR_REASON_SPEC_INVALID, status);
}

absl::StatusOr<TensorQuantization> CalibrateWeight(absl::Span<const float> values, absl::Span<const int64_t> dims,
                                                   std::optional<int> axis, const MethodSpec& method,
                                                   const QuantSpec& spec, const std::function<bool()>& abandoned) {
  if (spec.granularity == QuantGranularity::kPerTensor) axis.reset();
  size_t channels = 1, inner = values.size();
  if (axis.has_value()) {
    channels = static_cast<size_t>(dims[*axis]);
    inner = 1;
    for (size_t i = static_cast<size_t>(*axis) + 1; i < dims.size(); ++i) inner *= static_cast<size_t>(dims[i]);
  }
  // One type for all channels.
  QuantSpec channel_spec = ResolveAuto(spec, *std::min_element(values.begin(), values.end()));
  channel_spec.granularity = QuantGranularity::kPerTensor;

  TensorObserver observer;
  std::vector<QParams> params;
  std::vector<float> gathered;
  QuantRules rules;
  for (size_t channel = 0; channel < channels; ++channel) {
    absl::Span<const float> own = values;
    if (axis.has_value()) {
      GatherChannel(values, channel, channels, inner, &gathered);
      own = gathered;
    }
    const absl::StatusOr<LayerQParams> qparams = CalibrateValues(own, method, channel_spec, abandoned, &observer);
    if (absl::IsCancelled(qparams.status())) return qparams.status();
    if (!qparams.ok()) return MakeError(v1::ERROR_REASON_SPEC_INVALID, qparams.status());
    params.push_back(qparams->params.front());
    rules = qparams->rules;
  }
  return MakeTensorQuantization(channel_spec.type, std::move(params), axis, rules.qmin, rules.qmax);
}

}  // namespace calib::server
