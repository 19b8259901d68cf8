#include "server/export/onnx_conventions.h"

namespace calib::server {

ExportConventions OnnxConventions() {
  return {
      .activations =
          QuantSpec{.type = {.is_signed = false}, .scheme = QuantScheme::kAffine, .preset = QuantPreset::kOnnxruntime},
      .weights = QuantSpec{.preset = QuantPreset::kOnnxruntime},
      .weights_per_channel = true};
}

}  // namespace calib::server
