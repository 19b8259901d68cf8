#ifndef CALIB_PROTO_CODEC_QUANTIZATION_CODEC_H_
#define CALIB_PROTO_CODEC_QUANTIZATION_CODEC_H_

#include "absl/status/statusor.h"
#include "calib/v1/quantization.pb.h"
#include "quant/calibrate.h"

namespace calib {

// Methods, specs and qparams between message and quant types. Decoding fills in defaults and refuses unknown enum values
// and malformed parameters: INVALID_FIELD, or SPEC_INVALID when fields contradict each other.
absl::StatusOr<MethodSpec> DecodeMethodSpec(const v1::MethodSpec& method);
v1::MethodSpec EncodeMethodSpec(const MethodSpec& method);

absl::StatusOr<QuantSpec> DecodeQuantSpec(const v1::QuantSpec& spec);
v1::QuantSpec EncodeQuantSpec(const QuantSpec& spec);

// An answer's numeric fields; the caller adds layer name, workers and error.
void EncodeLayerQParams(const LayerQParams& qparams, v1::LayerQParams* message);

// Enum values by their lower-case names as the command line and JSON spell them: "int8", "pytorch", "symmetric", "mse".
absl::StatusOr<QuantPreset> ParsePreset(absl::string_view name);
absl::string_view PresetName(QuantPreset preset);

}  // namespace calib

#endif  // CALIB_PROTO_CODEC_QUANTIZATION_CODEC_H_
