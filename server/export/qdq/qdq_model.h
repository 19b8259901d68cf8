#ifndef CALIB_SERVER_EXPORT_QDQ_QDQ_MODEL_H_
#define CALIB_SERVER_EXPORT_QDQ_QDQ_MODEL_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "calib/v1/quantization.pb.h"
#include "quant/method_spec.h"
#include "quant/quant_spec.h"

namespace calib::server {

// Parameters for one tensor of a model.
struct QdqTensor {
  std::string name;  // in the model
  v1::LayerQParams
      qparams;          // `layer` is named in errors; scale, zero_point, qmin, qmax, spec.type and channel_axis count
  bool weight = false;  // a constant that Conv, ConvTranspose, Gemm or MatMul reads; else an activation
};

struct QdqOptions {
  // Leave weights alone: tensors with `weight` are not looked at.
  bool activations_only = false;
  // Keep weights in float32 behind QuantizeLinear, instead of storing their codes.
  bool float_weights = false;
  // Leave out tensors that can't be quantized, instead of failing.
  bool skip_unexportable = false;
  // For weights that no tensor names: the parameters follow from their own values. On x86 CPUs without VNNI, ONNX
  // Runtime's sums of products with int8 weights saturate; reduce_range or uint8 avoids that.
  MethodSpec weight_method;
  QuantSpec weight_spec{.preset = QuantPreset::kOnnxruntime, .granularity = QuantGranularity::kPerChannel};
  // Asked between tensors, and between channels where parameters are computed: whether the model is not wanted any
  // more. Empty: it is.
  std::function<bool()> abandoned;
};

// A tensor that was left out.
struct QdqOmission {
  std::string name;
  absl::Status reason;
};

struct QdqModel {
  std::string bytes;
  std::vector<std::string> from_model;  // weights quantized by their own values, in name order
  std::vector<QdqOmission> omitted;     // with skip_unexportable, in name order
};

// A float32 ONNX model (a serialized onnx.ModelProto) with QuantizeLinear (Q) and DequantizeLinear (DQ), which ONNX
// Runtime, TensorRT and OpenVINO take for a quantized one. Equal arguments give equal bytes; the order of `tensors`
// does not count. What this build's schema does not know is kept. Thread-safe.
//
// An activation T, an input or a node's output of the main graph, is followed by Q and DQ. Whatever reads T, also
// from the bodies of If, Loop and Scan, reads T_DequantizeLinear_Output then. Names are those of ONNX Runtime's
// tools: T_scale, T_zero_point, T_QuantizeLinear, T_QuantizeLinear_Output, T_DequantizeLinear, with _1, _2, ...
// behind names that are taken. A T that the graph gives out keeps its name, as with those tools: DQ makes it, and its
// node makes T_QuantizeLinear_Input. Of an input that is given out as it is, only the nodes' reads change. A type that
// the model does not declare follows from the node that makes T (type_inference.h). Where that does not tell, T is
// taken for float32, and refused when the model holds anything of another floating type.
//
// A weight is an initializer, or a Constant node's `value`, of float32, that Conv, ConvTranspose or Gemm reads as its
// second input, or MatMul as either. Its codes become the initializer W_quantized before a DQ, and every reader, of
// whatever kind, reads what that makes. With float_weights, and for a weight that is also a graph input (callers may
// override it) or is kept in an external file, W stays before Q and DQ. Codes follow QuantizeLinear, in float32: half
// to even(w / scale) + zero point, clamped to qmin and qmax. Channels lie along the axis of the output channels: Conv
// 0, ConvTranspose 1, Gemm 0 with transB else 1, MatMul 1. There is one scale alone for a weight of one axis, for one
// whose readers differ in their axis, and for what MatMul reads as its first input or with more than two axes, of
// which ONNX Runtime takes no more. Weights of other types, empty ones, and what is quantized already stay as they
// are. Bias stays float.
//
// The zero point's type says what Q makes, and Q saturates at that type's ends: narrow and reduced ranges of codes
// live in the scale alone. int8 and uint8 need opset 10 (13 per channel), fp8 19, int16, uint16, int4 and uint4 21.
// The opset is never raised, since that would change what other nodes mean. The IR version is raised where the type
// needs it.
//
// Errors; those about tensors and weights name them.
// EXPORT_INPUT_INVALID: not a model, damaged, without graph or opset, IR version below 4, values defined twice; a
//   weight without a tensor is in an external file or given out by the graph; a weight is not finite or not whole.
// NOT_EXPORTABLE, the only one that skip_unexportable passes over: a tensor is not in the model (the message has a
//   similar name), not float32, constant where an activation is meant or the reverse, quantized already, a weight
//   that the graph gives out; its type has no ONNX type, its zero point is none of the type's codes, its channels
//   don't fit; the opset is too low. Not passed over: two tensors have one name; the type of weights without a tensor
//   has no ONNX type or needs another opset; the result would pass 2 GiB.
// SPEC_INVALID: weight_method or weight_spec. INVALID_FIELD: an answer's spec. CANCELLED: abandoned.
absl::StatusOr<QdqModel> MakeQdqModel(std::string model, absl::Span<const QdqTensor> tensors,
                                      const QdqOptions& options);

}  // namespace calib::server

#endif  // CALIB_SERVER_EXPORT_QDQ_QDQ_MODEL_H_
