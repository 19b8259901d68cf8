#include "server/export/checks.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "proto/codec/error.h"
#include "proto/codec/quantization_codec.h"

namespace calib::server {
namespace {

template <typename Values>
bool AllZero(const Values& values) {
  return std::all_of(values.begin(), values.end(), [](auto value) { return value == 0; });
}

}  // namespace

absl::Status NotExportable(const ExportTensor& tensor, absl::string_view problem) {
  const std::string& layer = tensor.qparams.layer();
  return MakeError(v1::ERROR_REASON_NOT_EXPORTABLE, absl::StrCat("layer \"", layer, "\": ", problem),
                   {{"layer", layer}});
}

absl::Status CheckHasRange(const ExportTensor& tensor) {
  const v1::LayerQParams& qparams = tensor.qparams;
  if (!AllZero(qparams.clip_min()) || !AllZero(qparams.clip_max())) return absl::OkStatus();
  return NotExportable(tensor,
                       "its range is zero, so that its scale means nothing; send data with other values, or leave the "
                       "layer out");
}

absl::Status CheckPerTensor(const ExportTensor& tensor) {
  if (!IsPerChannel(tensor.qparams)) return absl::OkStatus();
  return NotExportable(tensor, absl::StrCat("it has ", tensor.qparams.scale_size(),
                                            " scales, one a channel, and the format holds one; ask per tensor"));
}

absl::Status CheckChannelAxis(const ExportTensor& tensor) {
  if (!IsPerChannel(tensor.qparams) || tensor.qparams.has_channel_axis()) return absl::OkStatus();
  return NotExportable(tensor, "it has a scale a channel, and the axis of its channels is not known; ask per tensor");
}

absl::Status CheckZeroPointZero(const ExportTensor& tensor) {
  const auto& zero_points = tensor.qparams.zero_point();
  if (AllZero(zero_points)) return absl::OkStatus();
  const int64_t zero_point = *std::find_if(zero_points.begin(), zero_points.end(), [](int64_t z) { return z != 0; });
  return NotExportable(
      tensor, absl::StrCat("its zero point is ", zero_point, ", and the format has none; ask for a symmetric type"));
}

absl::Status CheckSymmetricInt8(const ExportTensor& tensor) {
  const v1::LayerQParams& qparams = tensor.qparams;
  if (TypeOf(qparams) != QuantType{} || qparams.qmin() > -127 || qparams.qmax() != 127) {
    return NotExportable(
        tensor, absl::StrCat("its codes are ", TypeOf(qparams).Name(), " from ", qparams.qmin(), " to ", qparams.qmax(),
                             ", and the format's are int8 from -127 to 127; ask for symmetric int8"));
  }
  if (absl::Status status = CheckPerTensor(tensor); !status.ok()) return status;
  return CheckZeroPointZero(tensor);
}

absl::Status CheckNameIsOneLine(const ExportTensor& tensor) {
  const bool plain = std::none_of(tensor.name.begin(), tensor.name.end(),
                                  [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
  if (plain) return absl::OkStatus();
  return NotExportable(tensor, "its name has a control character, which the format can't carry; rename it");
}

std::string MethodNameOf(const v1::LayerQParams& qparams) {
  const absl::StatusOr<MethodSpec> method = DecodeMethodSpec(qparams.method());
  return method.ok() ? std::string(MethodName(method->method)) : "";  // the server made it: it can be read
}

QuantType TypeOf(const v1::LayerQParams& qparams) {
  const absl::StatusOr<QuantSpec> spec = DecodeQuantSpec(qparams.spec());
  return spec.ok() ? spec->type : QuantType{};  // the server made it: it can be read
}

bool HasAllCodes(const v1::LayerQParams& qparams) {
  const QuantType type = TypeOf(qparams);
  return qparams.qmin() == type.qmin() && qparams.qmax() == type.qmax();
}

bool IsSymmetric(const v1::LayerQParams& qparams) { return qparams.spec().scheme() != v1::QUANT_SCHEME_AFFINE; }

bool IsPerChannel(const v1::LayerQParams& qparams) {
  return qparams.spec().granularity() == v1::QUANT_GRANULARITY_PER_CHANNEL;
}

}  // namespace calib::server
