#ifndef CALIB_PROTO_CODEC_QUANTIZATION_CODEC_H_
#define CALIB_PROTO_CODEC_QUANTIZATION_CODEC_H_

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "calib/v1/quantization.pb.h"
#include "quant/calibrate.h"

namespace calib {

// Methods, specs and qparams between message and quant types. Decoding fills in defaults and refuses unknown enum
// values and malformed parameters: INVALID_FIELD, or SPEC_INVALID when fields contradict each other. Fields are named
// as seen from the message; InField (error.h) adds the path to it.

// A parameter of another method than the one asked for is refused, so that no wish is dropped silently.
absl::StatusOr<MethodSpec> DecodeMethodSpec(const v1::MethodSpec& method);
// Writes the method's own parameter alone.
v1::MethodSpec EncodeMethodSpec(const MethodSpec& method);

absl::StatusOr<QuantSpec> DecodeQuantSpec(const v1::QuantSpec& spec);
// `narrow_range` stays absent when it is unset: the preset decides.
v1::QuantSpec EncodeQuantSpec(const QuantSpec& spec);

// An answer's numeric fields, scale to inf and mse to clipped; the caller adds layer, method, spec and workers.
void EncodeLayerQParams(const LayerQParams& qparams, v1::LayerQParams* message);

// Presets by the names that the command line and JSON spell them with: "pytorch", "tensorrt", ... (Types, methods:
// quant/.) INVALID_ARGUMENT names what there is.
absl::StatusOr<QuantPreset> ParsePreset(absl::string_view name);
absl::string_view PresetName(QuantPreset preset);

}  // namespace calib

#endif  // CALIB_PROTO_CODEC_QUANTIZATION_CODEC_H_
