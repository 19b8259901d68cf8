#include "server/export/qdq/tensor_quantization.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/codec/error.h"
#include "proto/codec/quantization_codec.h"

namespace calib::server {
namespace {

absl::Status NotExportable(absl::string_view message) { return MakeError(v1::ERROR_REASON_NOT_EXPORTABLE, message); }

// Where the axis is, counted from the front; unset when it is outside.
std::optional<size_t> AxisFromFront(int axis, size_t rank) {
  const int64_t position = axis < 0 ? axis + static_cast<int64_t>(rank) : axis;
  if (position < 0 || position >= static_cast<int64_t>(rank)) return std::nullopt;
  return static_cast<size_t>(position);
}

onnx::TensorProto EmptyTensor(const TensorQuantization& quantization, const std::string& name) {
  onnx::TensorProto tensor;
  if (quantization.axis.has_value()) tensor.add_dims(static_cast<int64_t>(quantization.params.size()));
  tensor.set_name(name);
  return tensor;
}

// As QuantizeLinear computes it, so that codes made here are those made at run time.
int64_t IntegerCode(const TensorQuantization& quantization, const QParams& params, float value) {
  const float code = std::nearbyint(value / params.scale) + static_cast<float>(params.zero_point);
  // Compared as numbers, since those beyond int64 can't be converted.
  if (code <= static_cast<float>(quantization.qmin)) return quantization.qmin;
  if (code >= static_cast<float>(quantization.qmax)) return quantization.qmax;
  return static_cast<int64_t>(code);
}

}  // namespace

absl::StatusOr<TensorQuantization> MakeTensorQuantization(const QuantType& type, std::vector<QParams> params,
                                                          std::optional<int> axis, int64_t qmin, int64_t qmax) {
  const OnnxElement* const element = FindOnnxElement(type);
  if (element == nullptr) {
    return NotExportable(absl::StrCat("ONNX has no quantized type ", type.Name(),
                                      "; ask for int4, uint4, int8, uint8, int16, uint16, fp8_e4m3 or fp8_e5m2"));
  }
  if (params.empty() || (params.size() > 1 && !axis.has_value())) {
    return NotExportable(
        absl::StrCat("there are ", params.size(), " scales, but no channel axis; ask for one scale a tensor"));
  }
  const bool float8 = IsFloat8(type.kind);
  for (const auto& [scale, zero_point] : params) {
    if (!(scale > 0) || !std::isfinite(scale)) {
      return NotExportable(absl::StrCat("scale ", scale, " is no positive finite number"));
    }
    if (float8 ? zero_point != 0 : zero_point < type.qmin() || zero_point > type.qmax()) {
      return NotExportable(absl::StrCat("zero point ", zero_point, " is no code of ", type.Name()));
    }
  }
  if (!float8 && (qmin < type.qmin() || qmax > type.qmax() || qmin >= qmax)) {
    return NotExportable(absl::StrCat("codes [", qmin, ", ", qmax, "] are none of ", type.Name()));
  }
  return TensorQuantization{element, std::move(params), axis, qmin, qmax};
}

absl::StatusOr<TensorQuantization> MakeTensorQuantization(const v1::LayerQParams& qparams) {
  if (qparams.has_error()) return NotExportable(qparams.error().message());
  const absl::StatusOr<QuantSpec> spec = DecodeQuantSpec(qparams.spec());
  if (!spec.ok()) return InField("spec", spec.status());
  if (qparams.scale_size() != qparams.zero_point_size()) {
    return NotExportable(
        absl::StrCat("there are ", qparams.scale_size(), " scales, but ", qparams.zero_point_size(), " zero points"));
  }
  std::vector<QParams> params;
  params.reserve(static_cast<size_t>(qparams.scale_size()));
  for (int i = 0; i < qparams.scale_size(); ++i) params.push_back({qparams.scale(i), qparams.zero_point(i)});
  std::optional<int> axis;
  if (qparams.has_channel_axis()) axis = qparams.channel_axis();
  return MakeTensorQuantization(spec->type, std::move(params), axis, qparams.qmin(), qparams.qmax());
}

absl::Status CheckOpset(const TensorQuantization& quantization, int64_t opset) {
  const OnnxElement& element = *quantization.element;
  const int per_channel = quantization.axis.has_value() ? kPerChannelOpset : 0;
  if (opset >= std::max(element.opset, per_channel)) return absl::OkStatus();
  return NotExportable(absl::StrCat(
      element.opset > opset ? absl::StrCat(element.name, " needs opset ", element.opset)
                            : absl::StrCat("one scale a channel needs opset ", per_channel),
      ", but the model has opset ", opset, "; convert it with onnx.version_converter or export it anew, or ask for ",
      element.opset > opset ? "another type" : "one scale a tensor"));
}

absl::Status CheckShape(const TensorQuantization& quantization, absl::Span<const int64_t> dims) {
  if (!quantization.axis.has_value()) return absl::OkStatus();
  const auto channels = static_cast<int64_t>(quantization.params.size());
  const std::optional<size_t> axis = AxisFromFront(*quantization.axis, dims.size());
  if (axis.has_value() && (dims[*axis] < 0 || dims[*axis] == channels)) return absl::OkStatus();
  const std::string found = axis.has_value() ? absl::StrCat("axis ", *quantization.axis, " has size ", dims[*axis])
                                             : absl::StrCat("it has ", dims.size(), " axes");
  const auto fitting = std::find(dims.begin(), dims.end(), channels);
  return NotExportable(absl::StrCat("there are ", channels, " scales, for channels along axis ", *quantization.axis,
                                    ", but in the model ", found, "; ask for one scale a tensor, or observe it along ",
                                    fitting == dims.end()
                                        ? "the axis that its channels have in the model"
                                        : absl::StrCat("axis ", fitting - dims.begin(), ", which has ", channels)));
}

onnx::TensorProto ScaleTensor(const TensorQuantization& quantization, const std::string& name) {
  onnx::TensorProto tensor = EmptyTensor(quantization, name);
  tensor.set_data_type(onnx::TensorProto::FLOAT);
  for (const QParams& params : quantization.params) tensor.add_float_data(params.scale);
  return tensor;
}

onnx::TensorProto ZeroPointTensor(const TensorQuantization& quantization, const std::string& name) {
  onnx::TensorProto tensor = EmptyTensor(quantization, name);
  const OnnxElement& element = *quantization.element;
  tensor.set_data_type(element.data_type);
  std::string* const raw_data = tensor.mutable_raw_data();
  raw_data->resize(RawDataSize(element, quantization.params.size()));
  // FP8's is zero, whose code is 0.
  for (size_t i = 0; i < quantization.params.size(); ++i) {
    PutCode(element, i, quantization.params[i].zero_point, raw_data);
  }
  return tensor;
}

onnx::TensorProto CodeTensor(const TensorQuantization& quantization, const std::string& name,
                             absl::Span<const int64_t> dims, absl::Span<const float> values) {
  const OnnxElement& element = *quantization.element;
  onnx::TensorProto tensor;
  tensor.set_name(name);
  tensor.set_data_type(element.data_type);
  for (const int64_t size : dims) tensor.add_dims(size);
  std::string* const raw_data = tensor.mutable_raw_data();
  raw_data->resize(RawDataSize(element, values.size()));
  size_t inner = std::max<size_t>(values.size(), 1);  // neighbours of one channel
  if (quantization.axis.has_value()) {
    inner = 1;
    for (size_t i = *AxisFromFront(*quantization.axis, dims.size()) + 1; i < dims.size(); ++i) {
      inner *= static_cast<size_t>(dims[i]);
    }
  }
  const bool float8 = IsFloat8(element.type.kind);
  for (size_t i = 0; i < values.size(); ++i) {
    const QParams& params = quantization.params[i / inner % quantization.params.size()];
    const int64_t code =
        float8 ? Float8Code(element.type.kind, values[i] / params.scale) : IntegerCode(quantization, params, values[i]);
    PutCode(element, i, code, raw_data);
  }
  return tensor;
}

}  // namespace calib::server
