#include "server/export/qdq/node_insertion.h"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/export/qdq/graph_reads.h"

namespace calib::server {
namespace {

// Moves nodes to the end of the list.
void MoveTo(std::vector<onnx::NodeProto>* nodes, google::protobuf::RepeatedPtrField<onnx::NodeProto>* list) {
  for (onnx::NodeProto& node : *nodes) node.Swap(list->Add());
}

}  // namespace

void NodeInsertion::QuantizeValue(const std::string& name, const TensorQuantization& quantization) {
  const GraphIndex::Value& value = *index_->Find(name);
  const Parameters parameters = AddParameters(name, quantization);
  std::string input = name, output = name;
  if (value.is_output && value.node != nullptr) {
    input = index_->NewName(absl::StrCat(name, "_QuantizeLinear_Input"));
    auto& outputs = *graph_->mutable_node(value.node_position)->mutable_output();
    std::replace(outputs.begin(), outputs.end(), name, input);
  } else {
    output = index_->NewName(absl::StrCat(name, "_DequantizeLinear_Output"));
    renamed_.emplace(name, output);
  }
  const std::string codes = index_->NewName(absl::StrCat(name, "_QuantizeLinear_Output"));
  std::vector<onnx::NodeProto>& nodes = value.node == nullptr ? front_ : behind_[value.node_position];
  nodes.push_back(MakeNode("QuantizeLinear", name, input, parameters, codes, quantization));
  nodes.push_back(MakeNode("DequantizeLinear", name, codes, parameters, output, quantization));
}

void NodeInsertion::StoreCodes(const std::string& name, const TensorQuantization& quantization,
                               absl::Span<const float> values) {
  const GraphIndex::Value& value = *index_->Find(name);
  const Parameters parameters = AddParameters(name, quantization);
  const std::string codes = index_->NewName(absl::StrCat(name, "_quantized"));
  const std::string output = index_->NewName(absl::StrCat(name, "_DequantizeLinear_Output"));
  onnx::TensorProto tensor = CodeTensor(quantization, codes, value.constant->dims(), values);
  if (value.node != nullptr) {
    removed_.insert(value.node_position);
    tensor.Swap(graph_->add_initializer());
  } else {
    // In place, so that the file keeps its order; `value.constant` points at it.
    auto& initializers = *graph_->mutable_initializer();
    const auto old = std::find_if(initializers.begin(), initializers.end(),
                                  [&](const onnx::TensorProto& candidate) { return &candidate == value.constant; });
    tensor.Swap(&*old);
  }
  front_.push_back(MakeNode("DequantizeLinear", name, codes, parameters, output, quantization));
  gone_.insert(name);
  renamed_.emplace(name, output);
}

NodeInsertion::Parameters NodeInsertion::AddParameters(const std::string& name,
                                                       const TensorQuantization& quantization) {
  Parameters parameters{index_->NewName(absl::StrCat(name, "_scale")),
                        index_->NewName(absl::StrCat(name, "_zero_point"))};
  *graph_->add_initializer() = ScaleTensor(quantization, parameters.scale);
  *graph_->add_initializer() = ZeroPointTensor(quantization, parameters.zero_point);
  return parameters;
}

onnx::NodeProto NodeInsertion::MakeNode(absl::string_view op_type, const std::string& value, const std::string& input,
                                        const Parameters& parameters, const std::string& output,
                                        const TensorQuantization& quantization) {
  onnx::NodeProto node;
  node.set_name(index_->NewName(absl::StrCat(value, "_", op_type)));
  node.set_op_type(std::string(op_type));
  node.add_input(input);
  node.add_input(parameters.scale);
  node.add_input(parameters.zero_point);
  node.add_output(output);
  if (quantization.axis.has_value()) {
    onnx::AttributeProto* const axis = node.add_attribute();
    axis->set_name("axis");
    axis->set_type(onnx::AttributeProto::INT);
    axis->set_i(*quantization.axis);
  }
  return node;
}

void NodeInsertion::Apply() {
  VisitReads(graph_, [&](const onnx::NodeProto*, int, std::string* name) {
    if (const auto found = renamed_.find(*name); found != renamed_.end()) *name = found->second;
  });
  // The nodes themselves move: another list of empty ones to swap with would take as much memory again.
  auto& nodes = *graph_->mutable_node();
  std::vector<onnx::NodeProto*> old(static_cast<size_t>(nodes.size()));
  nodes.ExtractSubrange(0, nodes.size(), old.data());
  MoveTo(&front_, &nodes);
  for (size_t i = 0; i < old.size(); ++i) {
    std::unique_ptr<onnx::NodeProto> node(old[i]);
    const int position = static_cast<int>(i);
    if (!removed_.contains(position)) nodes.AddAllocated(node.release());
    if (const auto found = behind_.find(position); found != behind_.end()) MoveTo(&found->second, &nodes);
  }
  RemoveDeclarations();
}

void NodeInsertion::RemoveDeclarations() {
  auto& declarations = *graph_->mutable_value_info();
  declarations.erase(
      std::remove_if(declarations.begin(), declarations.end(),
                     [&](const onnx::ValueInfoProto& declaration) { return gone_.contains(declaration.name()); }),
      declarations.end());
}

}  // namespace calib::server
