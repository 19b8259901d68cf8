#ifndef CALIB_SERVER_EXPORT_AIMET_ENCODING_H_
#define CALIB_SERVER_EXPORT_AIMET_ENCODING_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "server/export/exporter.h"
#include "server/export/json_text.h"

// What the versions of AIMET's encodings share.
namespace calib::server {

// uint8 affine activations; int8 symmetric weights, per channel; AIMET's own conventions.
ExportConventions AimetConventions();

// NOT_EXPORTABLE: the type is no integer of 2 to 32 bits used whole, or a zero point is none of its codes.
absl::Status CheckAimetInteger(const ExportTensor& tensor);
// What versions up to 1.0.0 carry. They count codes from 0: x is about scale * (q + offset). They don't say which axis
// channels have, and readers take the output channels' of a weight. NOT_EXPORTABLE: as CheckAimetInteger; a scale a
// channel of an activation, or along another axis than 0 (or 1, which is right for transposed convolutions and MatMul,
// and which only the model can tell); as CheckHasRange.
absl::Status CheckAimetOffsets(const ExportTensor& tensor);
// -(2^bits - 1) to 0. REQUIRES: CheckAimetInteger.
int64_t AimetOffset(const v1::LayerQParams& qparams, int channel);

// The object "quantizer_args", whose truth values are `true_value` and `false_value`: versions differ.
Json AimetQuantizerArgs(absl::Span<const ExportTensor> tensors, const Json& true_value, const Json& false_value);

}  // namespace calib::server

#endif  // CALIB_SERVER_EXPORT_AIMET_ENCODING_H_
