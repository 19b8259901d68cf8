#include "server/export/qdq/type_inference.h"

#include <algorithm>
#include <cstddef>
#include <iterator>

#include "absl/strings/string_view.h"
#include "server/export/qdq/graph_reads.h"
#include "server/export/qdq/onnx_model.h"

namespace calib::server {
namespace {

using onnx::TensorProto;

bool IsFloating(int32_t type) { return type == TensorProto::FLOAT || IsOtherFloat(type); }

// Outputs whose type is not that of the node's floating inputs, or of its other inputs without any. The first row that
// fits counts.
struct OwnType {
  absl::string_view op_type;
  int first_output;  // this one and those behind it
  int32_t type;
};
constexpr OwnType kOwnTypes[] = {
    {"And", 0, TensorProto::BOOL},
    {"ArgMax", 0, TensorProto::INT64},
    {"ArgMin", 0, TensorProto::INT64},
    {"BlackmanWindow", 0, TensorProto::FLOAT},
    {"ConstantOfShape", 0, TensorProto::FLOAT},
    {"ConvInteger", 0, TensorProto::INT32},
    {"Dropout", 1, TensorProto::BOOL},
    {"DynamicQuantizeLinear", 2, TensorProto::UINT8},
    {"DynamicQuantizeLinear", 1, TensorProto::FLOAT},
    {"DynamicQuantizeLinear", 0, TensorProto::UINT8},
    {"Equal", 0, TensorProto::BOOL},
    {"Greater", 0, TensorProto::BOOL},
    {"GreaterOrEqual", 0, TensorProto::BOOL},
    {"HammingWindow", 0, TensorProto::FLOAT},
    {"HannWindow", 0, TensorProto::FLOAT},
    {"IsInf", 0, TensorProto::BOOL},
    {"IsNaN", 0, TensorProto::BOOL},
    {"Less", 0, TensorProto::BOOL},
    {"LessOrEqual", 0, TensorProto::BOOL},
    {"MatMulInteger", 0, TensorProto::INT32},
    {"MaxPool", 1, TensorProto::INT64},
    {"MelWeightMatrix", 0, TensorProto::FLOAT},
    {"Multinomial", 0, TensorProto::INT32},
    {"NonMaxSuppression", 0, TensorProto::INT64},
    {"NonZero", 0, TensorProto::INT64},
    {"Not", 0, TensorProto::BOOL},
    {"Or", 0, TensorProto::BOOL},
    {"RandomNormal", 0, TensorProto::FLOAT},
    {"RandomUniform", 0, TensorProto::FLOAT},
    {"SequenceLength", 0, TensorProto::INT64},
    {"Shape", 0, TensorProto::INT64},
    {"Size", 0, TensorProto::INT64},
    {"TfIdfVectorizer", 0, TensorProto::FLOAT},
    {"TopK", 1, TensorProto::INT64},
    {"Unique", 1, TensorProto::INT64},
    {"Xor", 0, TensorProto::BOOL},
};

// Outputs of the type of one input.
struct TypeOfInput {
  absl::string_view op_type;
  size_t input;
};
constexpr TypeOfInput kTypesOfInputs[] = {
    {"CastLike", 1},      {"OneHot", 2},         {"Pow", 0},    {"QLinearConv", 7},
    {"QLinearMatMul", 7}, {"QuantizeLinear", 2}, {"Resize", 0}, {"Upsample", 0},
};

// The type that an attribute gives to what the node makes; 0 when it gives none.
int32_t AttributeType(const onnx::AttributeProto& attribute) {
  const std::string& name = attribute.name();
  if (name == "to" || name == "dtype" || name == "output_datatype") return static_cast<int32_t>(attribute.i());
  if (name == "value") return attribute.t().data_type();
  if (name == "value_float" || name == "value_floats") return TensorProto::FLOAT;
  if (name == "value_int" || name == "value_ints") return TensorProto::INT64;
  return 0;
}

int32_t ToldType(const onnx::NodeProto& node) {
  for (const onnx::AttributeProto& attribute : node.attribute()) {
    if (const int32_t type = AttributeType(attribute); type != 0) return type;
  }
  return 0;
}

bool HasBodies(const onnx::NodeProto& node) {
  return std::any_of(node.attribute().begin(), node.attribute().end(),
                     [](const auto& attribute) { return attribute.has_g() || attribute.graphs_size() > 0; });
}

bool DeclaresOtherFloat(const onnx::ValueInfoProto& declaration) {
  const onnx::TypeProto& type = declaration.type();
  return IsOtherFloat(type.tensor_type().elem_type()) ||
         IsOtherFloat(type.sequence_type().elem_type().tensor_type().elem_type());
}

bool HoldsOtherFloatsIn(const onnx::GraphProto& graph) {
  bool found = false;
  VisitGraphs(graph, [&](const onnx::GraphProto& part) {
    for (const auto* declarations : {&part.input(), &part.output(), &part.value_info()}) {
      for (const onnx::ValueInfoProto& declaration : *declarations) found |= DeclaresOtherFloat(declaration);
    }
    for (const onnx::TensorProto& tensor : part.initializer()) found |= IsOtherFloat(tensor.data_type());
    for (const auto& tensor : part.sparse_initializer()) found |= IsOtherFloat(tensor.values().data_type());
    for (const onnx::NodeProto& node : part.node()) found |= IsOtherFloat(ToldType(node));
  });
  return found;
}

}  // namespace

bool IsOtherFloat(int32_t type) {
  return type == TensorProto::FLOAT16 || type == TensorProto::BFLOAT16 || type == TensorProto::DOUBLE;
}

int32_t InferElementType(const onnx::NodeProto& node, int output, absl::Span<const int32_t> inputs) {
  if (!IsOnnxNode(node) || HasBodies(node)) return 0;
  if (const int32_t type = ToldType(node); type != 0) return type;
  const auto* const own = std::find_if(std::begin(kOwnTypes), std::end(kOwnTypes), [&](const OwnType& candidate) {
    return candidate.op_type == node.op_type() && output >= candidate.first_output;
  });
  if (own != std::end(kOwnTypes)) return own->type;
  const auto* const same =
      std::find_if(std::begin(kTypesOfInputs), std::end(kTypesOfInputs),
                   [&](const TypeOfInput& candidate) { return candidate.op_type == node.op_type(); });
  if (same != std::end(kTypesOfInputs)) return same->input < inputs.size() ? inputs[same->input] : 0;
  if (inputs.empty() || std::find(inputs.begin(), inputs.end(), 0) != inputs.end()) return 0;
  const auto* const floating = std::find_if(inputs.begin(), inputs.end(), IsFloating);
  if (floating == inputs.end()) return inputs[0];
  const bool differ =
      std::any_of(floating, inputs.end(), [&](int32_t type) { return IsFloating(type) && type != *floating; });
  return differ ? 0 : *floating;
}

bool HoldsOtherFloats(const onnx::ModelProto& model) {
  bool found = HoldsOtherFloatsIn(model.graph());
  for (const onnx::FunctionProto& function : model.functions()) {
    for (const onnx::NodeProto& node : function.node()) {
      found |= IsOtherFloat(ToldType(node));
      for (const onnx::AttributeProto& attribute : node.attribute()) found |= HoldsOtherFloatsIn(attribute.g());
    }
  }
  return found;
}

}  // namespace calib::server
