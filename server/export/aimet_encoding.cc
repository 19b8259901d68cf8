#include "server/export/aimet_encoding.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "server/export/checks.h"

namespace calib::server {
namespace {

// The name of the scheme that chooses ranges alike, as far as there is one.
const char* SchemeName(v1::CalibrationMethod method) {
  switch (method) {
    case v1::CALIBRATION_METHOD_MSE:
      return "post_training_tf_enhanced";
    case v1::CALIBRATION_METHOD_PERCENTILE:
      return "post_training_percentile";
    default:
      return "post_training_tf";
  }
}

absl::Status CheckChannels(const ExportTensor& tensor) {
  const v1::LayerQParams& qparams = tensor.qparams;
  if (!IsPerChannel(qparams)) return absl::OkStatus();
  if (!tensor.is_weight) {
    return NotExportable(tensor,
                         "it has a scale a channel, and the format has those of weights alone; ask per tensor, or for "
                         "aimet-2.0.0");
  }
  if (absl::Status status = CheckChannelAxis(tensor); !status.ok()) return status;
  if (qparams.channel_axis() == 0 || qparams.channel_axis() == 1) return absl::OkStatus();
  return NotExportable(tensor, absl::StrCat("it has a scale a channel along axis ", qparams.channel_axis(),
                                            ", and readers of the format take them for the output channels', axis 0, "
                                            "or 1 as of MatMul; ask per tensor, or for aimet-2.0.0"));
}

}  // namespace

ExportConventions AimetConventions() {
  return {.activations =
              QuantSpec{.type = {.is_signed = false}, .scheme = QuantScheme::kAffine, .preset = QuantPreset::kAimet},
          .weights = QuantSpec{.preset = QuantPreset::kAimet},
          .weights_per_channel = true};
}

absl::Status CheckAimetInteger(const ExportTensor& tensor) {
  const v1::LayerQParams& qparams = tensor.qparams;
  const QuantType type = TypeOf(qparams);
  if (type.kind != CodeKind::kInteger || type.bits < 2) {
    return NotExportable(tensor, absl::StrCat("its type is ", type.Name(),
                                              ", and the format has integers of 2 to 32 bits; ask for one, such as "
                                              "uint8"));
  }
  if (!HasAllCodes(qparams)) {
    return NotExportable(
        tensor, absl::StrCat("its codes are ", qparams.qmin(), " to ", qparams.qmax(), ", and the format takes all of ",
                             type.Name(), "; ask without narrow or reduced ranges, with preset aimet"));
  }
  for (const int64_t zero_point : qparams.zero_point()) {
    if (zero_point >= qparams.qmin() && zero_point <= qparams.qmax()) continue;
    return NotExportable(tensor, absl::StrCat("its zero point ", zero_point, " is none of the codes ", qparams.qmin(),
                                              " to ", qparams.qmax(), "; ask with preset aimet"));
  }
  return absl::OkStatus();
}

absl::Status CheckAimetOffsets(const ExportTensor& tensor) {
  if (absl::Status status = CheckAimetInteger(tensor); !status.ok()) return status;
  if (absl::Status status = CheckChannels(tensor); !status.ok()) return status;
  return CheckHasRange(tensor);
}

int64_t AimetOffset(const v1::LayerQParams& qparams, int channel) {
  return qparams.qmin() - qparams.zero_point(channel);
}

Json AimetQuantizerArgs(absl::Span<const ExportTensor> tensors, const Json& true_value, const Json& false_value) {
  const auto find = [&](bool is_weight) -> const v1::LayerQParams* {
    const auto found =
        std::find_if(tensors.begin(), tensors.end(), [=](const auto& t) { return t.is_weight == is_weight; });
    return found == tensors.end() ? nullptr : &found->qparams;
  };
  const v1::LayerQParams* const activation = find(false);
  const v1::LayerQParams* const weight = find(true);
  const auto truth = [&](bool value) { return value ? true_value : false_value; };
  const bool per_channel = std::any_of(tensors.begin(), tensors.end(), [](const ExportTensor& tensor) {
    return tensor.is_weight && IsPerChannel(tensor.qparams);
  });
  const v1::LayerQParams& any = tensors.front().qparams;
  return {{"activation_bitwidth", TypeOf(activation != nullptr ? *activation : any).bits},
          {"dtype", "int"},
          {"is_symmetric", truth(IsSymmetric(weight != nullptr ? *weight : any))},
          {"param_bitwidth", TypeOf(weight != nullptr ? *weight : any).bits},
          {"per_channel_quantization", truth(per_channel)},
          {"quant_scheme", SchemeName(any.method().method())}};
}

}  // namespace calib::server
