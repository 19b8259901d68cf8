#include "server/rpc/qparams_query.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/codec/config_codec.h"
#include "proto/codec/error.h"
#include "proto/codec/quantization_codec.h"
#include "quant/calibrate.h"

namespace calib::server {
namespace {

v1::ErrorReason ReasonOf(CalibrateError error) {
  switch (error) {
    case CalibrateError::kNone:
      break;
    case CalibrateError::kMethodInvalid:
      return v1::ERROR_REASON_INVALID_FIELD;
    case CalibrateError::kSpecInvalid:
      return v1::ERROR_REASON_SPEC_INVALID;
    case CalibrateError::kLayerEmpty:
      return v1::ERROR_REASON_LAYER_EMPTY;
    case CalibrateError::kNeedsHistogram:
      return v1::ERROR_REASON_METHOD_NEEDS_HISTOGRAM;
    case CalibrateError::kNotPerChannel:
      return v1::ERROR_REASON_LAYER_NOT_PER_CHANNEL;
  }
  return v1::ERROR_REASON_COUNT_OVERFLOW;  // merging a layer's channels is all else that can fail
}

}  // namespace

absl::Status AnswerTooLarge(size_t layers, size_t limit) {
  return MakeError(v1::ERROR_REASON_LIMIT_EXCEEDED,
                   absl::StrCat("the answer for ", layers, " layers would be larger than ", limit,
                                " bytes: ask for fewer layers at a time by pattern, or raise the server's option "
                                "--max-message-bytes"),
                   {{"option", "--max-message-bytes"}, {"limit", absl::StrCat(limit)}});
}

absl::Status NoLayerMatches(const Session& session, const std::string& pattern) {
  return MakeError(v1::ERROR_REASON_LAYER_NOT_FOUND,
                   absl::StrCat("no layer of session \"", session.name(), "\" matches \"", pattern,
                                "\": correct the pattern, or wait for data"),
                   {{"session", session.name()}, {"pattern", pattern}});
}

absl::StatusOr<std::string> LayerPattern(const std::string& pattern) {
  if (pattern.empty()) return "*";
  const absl::Status status = CheckPattern("pattern", pattern);
  if (!status.ok()) return status;
  return pattern;
}

absl::StatusOr<MethodSpec> RequestedMethod(absl::string_view field, const v1::MethodSpec& method) {
  absl::StatusOr<MethodSpec> decoded = DecodeMethodSpec(method);
  if (!decoded.ok()) return InField(field, decoded.status());
  return decoded;
}

absl::StatusOr<QuantSpec> RequestedSpec(absl::string_view field, const v1::QuantSpec& spec) {
  absl::StatusOr<QuantSpec> decoded = DecodeQuantSpec(spec);
  if (!decoded.ok()) return InField(field, decoded.status());
  return decoded;
}

absl::StatusOr<v1::LayerQParams> ComputeLayerQParams(const Session::LayerSnapshot& layer, const QParamsQuery& query,
                                                     const std::function<bool()>& abandoned) {
  const MethodSpec& method = query.method;
  const QuantSpec& used = query.spec.has_value() ? *query.spec : layer.quant_spec;
  v1::LayerQParams message;
  message.set_layer(layer.name);
  *message.mutable_method() = EncodeMethodSpec(method);
  *message.mutable_spec() = EncodeQuantSpec(used);
  const absl::StatusOr<LayerQParams> qparams = Calibrate(layer.statistics, method, used, abandoned);
  if (absl::IsCancelled(qparams.status())) return qparams.status();
  if (qparams.ok()) {
    *message.mutable_spec() = EncodeQuantSpec(qparams->spec);
    EncodeLayerQParams(*qparams, &message);
    const std::optional<int>& channel_axis = layer.statistics.config().channel_axis;
    if (qparams->spec.granularity == QuantGranularity::kPerChannel && channel_axis.has_value()) {
      message.set_channel_axis(*channel_axis);
    }
    message.set_workers(layer.workers);
    return message;
  }
  const absl::Status error =
      MakeError(ReasonOf(CheckCalibrate(layer.statistics, method, used)), qparams.status(), {{"layer", layer.name}});
  message.mutable_error()->set_message(absl::StrCat("layer \"", layer.name, "\": ", error.message()));
  if (std::optional<v1::ErrorInfo> info = GetErrorInfo(error))
    *message.mutable_error()->mutable_info() = *std::move(info);
  return message;
}

}  // namespace calib::server
