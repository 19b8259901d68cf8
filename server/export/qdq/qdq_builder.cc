#include "server/export/qdq/qdq_builder.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "absl/strings/str_cat.h"
#include "proto/codec/error.h"
#include "proto/codec/utf8.h"
#include "server/export/qdq/near_name.h"
#include "server/export/qdq/onnx_model.h"
#include "server/export/qdq/type_inference.h"
#include "server/export/qdq/weight_calibration.h"
#include "server/export/qdq/weight_readers.h"

namespace calib::server {
namespace {

absl::Status Refuse(absl::string_view message) { return MakeError(v1::ERROR_REASON_NOT_EXPORTABLE, message); }

absl::Status WeightInvalid(absl::string_view name, absl::string_view message) {
  return MakeError(v1::ERROR_REASON_EXPORT_INPUT_INVALID, absl::StrCat("weight \"", name, "\" ", message));
}

std::string ElementTypeName(int32_t type) {
  const std::string& name = onnx::TensorProto::DataType_Name(static_cast<onnx::TensorProto::DataType>(type));
  return name.empty() ? absl::StrCat("of element type ", type) : name;
}

// Dimensions that the model declares, -1 where they are unknown; unset when it says nothing.
std::optional<std::vector<int64_t>> DeclaredDims(const GraphIndex::Value& value) {
  if (value.type == nullptr || !value.type->tensor_type().has_shape()) return std::nullopt;
  std::vector<int64_t> dims;
  for (const auto& dim : value.type->tensor_type().shape().dim()) {
    dims.push_back(dim.has_dim_value() ? dim.dim_value() : -1);
  }
  return dims;
}

bool IsExternal(const onnx::TensorProto& tensor) {
  return tensor.data_location() == onnx::TensorProto::EXTERNAL || tensor.external_data_size() > 0;
}

bool IsEmpty(const onnx::TensorProto& tensor) {
  return std::find(tensor.dims().begin(), tensor.dims().end(), 0) != tensor.dims().end();
}

// The values of a weight, all finite. EXPORT_INPUT_INVALID.
absl::StatusOr<std::vector<float>> WeightValues(const std::string& name, const onnx::TensorProto& tensor) {
  absl::StatusOr<std::vector<float>> values = FloatValues(tensor);
  if (values.ok() && !std::all_of(values->begin(), values->end(), [](float value) { return std::isfinite(value); })) {
    return WeightInvalid(name, "holds NaN or infinity, which no code stands for; correct the model");
  }
  return values;
}

}  // namespace

QdqBuilder::QdqBuilder(onnx::ModelProto* model, GraphIndex* index, const QdqOptions* options)
    : model_(model),
      index_(index),
      options_(options),
      other_floats_(HoldsOtherFloats(*model)),
      insertion_(model->mutable_graph(), index) {}

absl::StatusOr<const GraphIndex::Value*> QdqBuilder::Find(const QdqTensor& tensor) const {
  if (const GraphIndex::Value* const value = index_->Find(tensor.name); value != nullptr) return value;
  // Looked for only for someone who will read it, which ends the work.
  std::optional<std::string> near;
  if (!options_->skip_unexportable) near = NearName(tensor.name, index_->Names(tensor.weight));
  return Refuse(absl::StrCat(
      "the model's main graph has no tensor of this name",
      near.has_value() ? absl::StrCat("; is it \"", *near, "\"?") : "; give the name that it has in the model"));
}

absl::Status QdqBuilder::CheckFloat(const GraphIndex::Value& value) const {
  const int32_t type = value.ElementType();
  if (type == onnx::TensorProto::FLOAT) return absl::OkStatus();
  if (type == 0 && value.constant == nullptr) {
    if (!other_floats_) return absl::OkStatus();
    return Refuse(
        "the model does not declare its element type, and not all that it holds is float32; declare the types with "
        "onnx.shape_inference.infer_shapes, or leave this layer out");
  }
  return Refuse(absl::StrCat("in the model it is ", type < 0 ? "no tensor" : ElementTypeName(type),
                             ", but only float32 can be quantized; ",
                             IsOtherFloat(type) ? "convert the model to float32, or " : "", "leave this layer out"));
}

absl::Status QdqBuilder::QuantizeActivation(const QdqTensor& tensor) {
  const absl::StatusOr<const GraphIndex::Value*> found = Find(tensor);
  if (!found.ok()) return found.status();
  const GraphIndex::Value& value = **found;
  if (value.is_constant) return Refuse("it is a constant of the model, not an activation; observe it as a weight");
  if (value.IsQuantized()) return Refuse("it is quantized in the model already; give the float model");
  if (absl::Status status = CheckFloat(value); !status.ok()) return status;
  const absl::StatusOr<TensorQuantization> quantization = MakeTensorQuantization(tensor.qparams);
  if (!quantization.ok()) return quantization.status();
  if (absl::Status status = CheckOpset(*quantization, OpsetOf(*model_)); !status.ok()) return status;
  if (const std::optional<std::vector<int64_t>> dims = DeclaredDims(value); dims.has_value()) {
    if (absl::Status status = CheckShape(*quantization, *dims); !status.ok()) return status;
  }
  QuantizeValue(tensor.name, *quantization);
  return absl::OkStatus();
}

absl::Status QdqBuilder::QuantizeWeight(const QdqTensor& tensor) {
  const absl::StatusOr<const GraphIndex::Value*> found = Find(tensor);
  if (!found.ok()) return found.status();
  const GraphIndex::Value& value = **found;
  if (value.constant == nullptr) {
    return Refuse(value.is_constant ? "it is a sparse constant, which is no weight that can be quantized"
                                    : "it is no constant of the model, but an activation");
  }
  const onnx::TensorProto& constant = *value.constant;
  if (value.IsQuantized()) return Refuse("it is quantized in the model already; give the float model");
  if (absl::Status status = CheckFloat(value); !status.ok()) return status;
  const WeightReaders readers = FindWeightReaders(value);
  if (!readers.any) return Refuse("no Conv, ConvTranspose, Gemm or MatMul of the model reads it as a weight");
  if (value.is_output) return Refuse("the model gives it out, so it has to stay as it is");
  if (IsEmpty(constant)) return Refuse("in the model it has no values");
  const absl::StatusOr<TensorQuantization> quantization = MakeTensorQuantization(tensor.qparams);
  if (!quantization.ok()) return quantization.status();
  if (absl::Status status = CheckFits(*quantization, constant.dims()); !status.ok()) return status;
  if (quantization->axis.has_value()) {
    // A weight that was transposed for the model would get the scales of its input channels.
    const int axis = *quantization->axis + (*quantization->axis < 0 ? constant.dims_size() : 0);
    if (readers.channel_axis != axis) {
      return Refuse(absl::StrCat("it was observed along axis ", axis, ", but in the model ",
                                 readers.channel_axis.has_value()
                                     ? absl::StrCat("its output channels lie along axis ", *readers.channel_axis)
                                     : "its readers take one scale alone",
                                 "; ask for one scale a tensor, or leave it out to quantize it by its own values"));
    }
  }
  if (IsExternal(constant)) {
    QuantizeValue(tensor.name, *quantization);
  } else {
    const absl::StatusOr<std::vector<float>> values = WeightValues(tensor.name, constant);
    if (!values.ok()) return values.status();
    PutWeight(tensor.name, value, *quantization, *values);
  }
  done_.insert(tensor.name);
  return absl::OkStatus();
}

absl::Status QdqBuilder::QuantizeOtherWeights(std::vector<std::string>* quantized) {
  for (const std::string& name : index_->Names(/*constants=*/true)) {
    const GraphIndex::Value& value = *index_->Find(name);
    if (done_.contains(name) || value.constant == nullptr || value.constant->data_type() != onnx::TensorProto::FLOAT ||
        value.IsQuantized() || !FindWeightReaders(value).any || IsEmpty(*value.constant)) {
      continue;
    }
    if (absl::Status status = QuantizeByOwnValues(name, value); !status.ok()) return status;
    quantized->push_back(name);
  }
  return absl::OkStatus();
}

absl::Status QdqBuilder::QuantizeByOwnValues(const std::string& name, const GraphIndex::Value& value) {
  constexpr absl::string_view kInstead = "; observe it, or ask for activations only";
  if (!IsValidUtf8(name)) return WeightInvalid(name, absl::StrCat("has a name that is not UTF-8", kInstead));
  if (value.is_output) return WeightInvalid(name, "is also an output of the model; ask for activations only");
  if (IsExternal(*value.constant)) return WeightInvalid(name, absl::StrCat("is in an external file", kInstead));
  const absl::StatusOr<std::vector<float>> values = WeightValues(name, *value.constant);
  if (!values.ok()) return values.status();
  const absl::Span<const int64_t> dims = value.constant->dims();
  const absl::StatusOr<TensorQuantization> quantization =
      CalibrateWeight(*values, dims, FindWeightReaders(value).channel_axis, options_->weight_method,
                      options_->weight_spec, options_->abandoned);
  if (absl::IsCancelled(quantization.status())) return quantization.status();
  absl::Status status = quantization.ok() ? CheckFits(*quantization, dims) : quantization.status();
  if (!status.ok()) return MakeError(GetReason(status), absl::StrCat("weight \"", name, "\": ", status.message()));
  PutWeight(name, value, *quantization, *values);
  return absl::OkStatus();
}

absl::Status QdqBuilder::CheckFits(const TensorQuantization& quantization, absl::Span<const int64_t> dims) const {
  const absl::Status status = CheckOpset(quantization, OpsetOf(*model_));
  return status.ok() ? CheckShape(quantization, dims) : status;
}

void QdqBuilder::PutWeight(const std::string& name, const GraphIndex::Value& value,
                           const TensorQuantization& quantization, absl::Span<const float> values) {
  if (options_->float_weights || value.is_input) {
    QuantizeValue(name, quantization);
  } else {
    insertion_.StoreCodes(name, quantization, values);
    model_->set_ir_version(std::max<int64_t>(model_->ir_version(), quantization.element->ir_version));
  }
}

void QdqBuilder::QuantizeValue(const std::string& name, const TensorQuantization& quantization) {
  insertion_.QuantizeValue(name, quantization);
  model_->set_ir_version(std::max<int64_t>(model_->ir_version(), quantization.element->ir_version));
}

}  // namespace calib::server
