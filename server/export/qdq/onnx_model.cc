#include "server/export/qdq/onnx_model.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "proto/codec/error.h"

namespace calib::server {
namespace {

constexpr int kLeastIrVersion = 4;
constexpr size_t kMostBytes = std::numeric_limits<int>::max();

absl::Status InputInvalid(absl::string_view message) {
  return MakeError(v1::ERROR_REASON_EXPORT_INPUT_INVALID, message);
}

bool IsOnnxDomain(absl::string_view domain) { return domain.empty() || domain == "ai.onnx"; }

}  // namespace

bool IsOnnxNode(const onnx::NodeProto& node) { return IsOnnxDomain(node.domain()); }

bool IsOnnxNode(const onnx::NodeProto& node, absl::string_view op_type) {
  return node.op_type() == op_type && IsOnnxNode(node);
}

absl::StatusOr<onnx::ModelProto> ParseOnnxModel(absl::string_view bytes) {
  if (bytes.size() > kMostBytes) {
    return InputInvalid("the model passes 2 GiB, which no ONNX file can; keep its weights in an external file");
  }
  onnx::ModelProto model;
  if (!model.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return InputInvalid("the input is no ONNX model, or it is damaged or cut short");
  }
  if (!model.has_graph()) return InputInvalid("the input is no ONNX model, or cut short: it has no graph");
  if (!model.has_ir_version()) return InputInvalid("the input is no ONNX model: it has no ir_version");
  if (model.ir_version() < kLeastIrVersion) {
    return InputInvalid(absl::StrCat("the model has IR version ", model.ir_version(), ", but ", kLeastIrVersion,
                                     " or later is needed; export it anew"));
  }
  int64_t opset = 0;
  for (const onnx::OperatorSetIdProto& entry : model.opset_import()) {
    if (!IsOnnxDomain(entry.domain())) continue;
    if (entry.version() <= 0 || (opset != 0 && opset != entry.version())) {
      return InputInvalid(absl::StrCat("the model's opset_import has version ", entry.version(),
                                       " of ONNX's operators, which is none or not the only one"));
    }
    opset = entry.version();
  }
  if (opset == 0) return InputInvalid("the model is cut short, or has no opset_import of ONNX's operators");
  return model;
}

int64_t OpsetOf(const onnx::ModelProto& model) {
  const auto entry = std::find_if(model.opset_import().begin(), model.opset_import().end(),
                                  [](const auto& candidate) { return IsOnnxDomain(candidate.domain()); });
  return entry->version();
}

absl::StatusOr<std::string> SerializeOnnxModel(const onnx::ModelProto& model) {
  // Without map fields, of which ONNX has none, protobuf writes equal messages alike.
  std::string bytes;
  if (model.ByteSizeLong() > kMostBytes || !model.SerializeToString(&bytes)) {
    return MakeError(v1::ERROR_REASON_NOT_EXPORTABLE,
                     "the quantized model would pass 2 GiB; keep the model's weights in an external file");
  }
  return bytes;
}

absl::StatusOr<std::vector<float>> FloatValues(const onnx::TensorProto& tensor) {
  const absl::string_view name = tensor.name();
  size_t elements = 1;
  for (const int64_t size : tensor.dims()) {
    if (size < 0 || (size > 0 && elements > kMostBytes / static_cast<size_t>(size))) {
      return InputInvalid(absl::StrCat("tensor \"", name, "\" has impossible dimensions"));
    }
    elements *= static_cast<size_t>(size);
  }
  const std::string& raw = tensor.raw_data();
  const size_t raw_bytes = raw.size(), listed = static_cast<size_t>(tensor.float_data_size());
  // Segments are parts of a tensor, which no known writer makes.
  if (tensor.has_segment() || (raw_bytes != 0 && listed != 0) ||
      (listed != elements && raw_bytes != elements * sizeof(float))) {
    return InputInvalid(absl::StrCat("tensor \"", name, "\" should have ", elements, " float32 values, but has ",
                                     listed, " and ", raw_bytes, " bytes; the model is damaged"));
  }
  std::vector<float> values(tensor.float_data().begin(), tensor.float_data().end());
  if (raw_bytes != 0) {
    values.resize(elements);
    std::memcpy(values.data(), raw.data(), raw_bytes);
  }
  return values;
}

}  // namespace calib::server
