#ifndef CALIB_SERVER_EXPORT_QDQ_TENSOR_QUANTIZATION_H_
#define CALIB_SERVER_EXPORT_QDQ_TENSOR_QUANTIZATION_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "calib/v1/quantization.pb.h"
#include "onnx/onnx_pb.h"
#include "quant/quant_rules.h"
#include "server/export/qdq/onnx_element.h"

namespace calib::server {

// How one tensor is quantized, as QuantizeLinear takes it.
struct TensorQuantization {
  const OnnxElement* element = nullptr;  // never null
  std::vector<QParams> params;           // one, or one a channel
  std::optional<int> axis;               // of the channels; negative counts from the end. Unset: one scale.
  int64_t qmin = 0;                      // codes of weights are clamped to these; not of FP8
  int64_t qmax = 0;
};

// From an answer. Errors don't name the tensor. NOT_EXPORTABLE: an answer without parameters, a type that ONNX
// doesn't have, a scale that is no positive finite number, a zero point that is none of the type's codes, numbers of
// scales, zero points and channels that don't fit.
absl::StatusOr<TensorQuantization> MakeTensorQuantization(const v1::LayerQParams& qparams);
// The same of parameters computed here.
absl::StatusOr<TensorQuantization> MakeTensorQuantization(const QuantType& type, std::vector<QParams> params,
                                                          std::optional<int> axis, int64_t qmin, int64_t qmax);

// NOT_EXPORTABLE when a model of this opset can't have it.
absl::Status CheckOpset(const TensorQuantization& quantization, int64_t opset);
// NOT_EXPORTABLE when the axis is outside a shape with these dimensions, or its size is not the number of channels;
// negative dimensions are unknown.
absl::Status CheckShape(const TensorQuantization& quantization, absl::Span<const int64_t> dims);

// The second and third input of QuantizeLinear: scalars, or one-dimensional.
onnx::TensorProto ScaleTensor(const TensorQuantization& quantization, const std::string& name);
onnx::TensorProto ZeroPointTensor(const TensorQuantization& quantization, const std::string& name);
// The codes of a weight's values. REQUIRES: CheckShape(quantization, dims).ok(), dims has as many elements as there
// are values, all finite.
onnx::TensorProto CodeTensor(const TensorQuantization& quantization, const std::string& name,
                             absl::Span<const int64_t> dims, absl::Span<const float> values);

}  // namespace calib::server

#endif  // CALIB_SERVER_EXPORT_QDQ_TENSOR_QUANTIZATION_H_
