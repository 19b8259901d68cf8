#include "server/export/qdq/graph_index.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/codec/error.h"
#include "server/export/qdq/graph_reads.h"
#include "server/export/qdq/onnx_model.h"
#include "server/export/qdq/type_inference.h"

namespace calib::server {
namespace {

// In any domain: ONNX Runtime has operators of these names of its own.
bool MakesOrTakesCodes(const onnx::NodeProto& node) {
  return node.op_type() == "QuantizeLinear" || node.op_type() == "DequantizeLinear" ||
         node.op_type() == "DynamicQuantizeLinear";
}

const onnx::TensorProto* ConstantTensor(const onnx::NodeProto& node) {
  const auto attribute = std::find_if(node.attribute().begin(), node.attribute().end(), [](const auto& candidate) {
    return candidate.name() == "value" && candidate.has_t();
  });
  return attribute == node.attribute().end() ? nullptr : &attribute->t();
}

}  // namespace

int32_t GraphIndex::Value::ElementType() const {
  if (constant != nullptr) return constant->data_type();
  if (type == nullptr || type->value_case() == onnx::TypeProto::VALUE_NOT_SET) return inferred_type;
  if (!type->has_tensor_type()) return -1;
  return type->tensor_type().elem_type() != 0 ? type->tensor_type().elem_type() : inferred_type;
}

bool GraphIndex::Value::IsQuantized() const {
  return (node != nullptr && MakesOrTakesCodes(*node)) ||
         std::any_of(reads.begin(), reads.end(), [](const Read& read) { return MakesOrTakesCodes(*read.node); });
}

absl::StatusOr<GraphIndex> GraphIndex::Make(onnx::GraphProto* graph) {
  GraphIndex index;
  if (absl::Status status = index.AddValues(*graph); !status.ok()) return status;
  index.Declare(*graph);
  index.InferTypes(*graph);
  VisitReads(graph, [&](const onnx::NodeProto* node, int input, std::string* name) {
    const auto value = index.values_.find(*name);
    if (node != nullptr && value != index.values_.end()) value->second.reads.push_back({node, input});
  });
  VisitGraphs(*graph, [&](const onnx::GraphProto& part) {
    for (const onnx::ValueInfoProto& input : part.input()) index.taken_.insert(input.name());
    for (const onnx::ValueInfoProto& output : part.output()) index.taken_.insert(output.name());
    for (const onnx::TensorProto& initializer : part.initializer()) index.taken_.insert(initializer.name());
    for (const auto& initializer : part.sparse_initializer()) index.taken_.insert(initializer.values().name());
    for (const onnx::NodeProto& node : part.node()) {
      index.taken_.insert(node.name());
      index.taken_.insert(node.output().begin(), node.output().end());
    }
  });
  return index;
}

absl::Status GraphIndex::AddValues(const onnx::GraphProto& graph) {
  absl::Status status;
  for (const onnx::ValueInfoProto& input : graph.input()) status.Update(Define(input.name(), {.is_input = true}));
  const auto define_constant = [&](const std::string& name, const onnx::TensorProto* tensor) {
    // An initializer may be an input's default.
    const auto input = values_.find(name);
    if (input != values_.end() && input->second.is_input && !input->second.is_constant) {
      input->second.constant = tensor;
      input->second.is_constant = true;
    } else {
      status.Update(Define(name, {.constant = tensor, .is_constant = true}));
    }
  };
  for (const onnx::TensorProto& tensor : graph.initializer()) define_constant(tensor.name(), &tensor);
  for (const auto& tensor : graph.sparse_initializer()) define_constant(tensor.values().name(), nullptr);
  for (int i = 0; i < graph.node_size(); ++i) {
    const onnx::NodeProto& node = graph.node(i);
    const bool constant = IsOnnxNode(node, "Constant") && node.output_size() == 1;
    for (const std::string& name : node.output()) {
      if (name.empty()) continue;  // an optional output that is left out
      status.Update(Define(name, {.node = &node,
                                  .node_position = i,
                                  .constant = constant ? ConstantTensor(node) : nullptr,
                                  .is_constant = constant}));
    }
  }
  return status;
}

absl::Status GraphIndex::Define(const std::string& name, Value&& value) {
  if (values_.try_emplace(name, std::move(value)).second) return absl::OkStatus();
  return MakeError(v1::ERROR_REASON_EXPORT_INPUT_INVALID,
                   absl::StrCat("the model defines \"", name, "\" twice; correct it"));
}

void GraphIndex::Declare(const onnx::GraphProto& graph) {
  for (const auto* declarations : {&graph.input(), &graph.output(), &graph.value_info()}) {
    for (const onnx::ValueInfoProto& declaration : *declarations) {
      const auto value = values_.find(declaration.name());
      if (value == values_.end()) continue;
      if (declaration.has_type()) value->second.type = &declaration.type();
      if (declarations == &graph.output()) value->second.is_output = true;
    }
  }
}

void GraphIndex::InferTypes(const onnx::GraphProto& graph) {
  std::vector<int32_t> inputs;
  for (const onnx::NodeProto& node : graph.node()) {
    inputs.clear();
    for (const std::string& name : node.input()) {
      if (name.empty()) continue;  // an optional input that is left out
      const Value* const value = Find(name);
      inputs.push_back(value == nullptr ? 0 : std::max(value->ElementType(), 0));
    }
    for (int i = 0; i < node.output_size(); ++i) {
      const auto value = values_.find(node.output(i));
      if (value != values_.end()) value->second.inferred_type = InferElementType(node, i, inputs);
    }
  }
}

const GraphIndex::Value* GraphIndex::Find(absl::string_view name) const {
  const auto value = values_.find(name);
  return value == values_.end() ? nullptr : &value->second;
}

std::vector<std::string> GraphIndex::Names(bool constants) const {
  std::vector<std::string> names;
  for (const auto& [name, value] : values_) {
    if (value.is_constant == constants) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string GraphIndex::NewName(absl::string_view wanted) {
  std::string name(wanted);
  for (size_t i = 1; !taken_.insert(name).second; ++i) name = absl::StrCat(wanted, "_", i);
  return name;
}

}  // namespace calib::server
