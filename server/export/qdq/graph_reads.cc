#include "server/export/qdq/graph_reads.h"

#include <algorithm>
#include <vector>

#include "absl/container/flat_hash_set.h"

namespace calib::server {
namespace {

// Bodies are nested no deeper than protobuf parses messages, 100 levels, so recursion is bounded.
class ReadWalk {
 public:
  explicit ReadWalk(ReadVisitor visit) : visit_(visit) {}

  void VisitNodes(onnx::GraphProto* graph) {
    for (onnx::NodeProto& node : *graph->mutable_node()) {
      for (int i = 0; i < node.input_size(); ++i) Visit(&node, i, node.mutable_input(i));
      for (onnx::AttributeProto& attribute : *node.mutable_attribute()) {
        if (attribute.has_g()) VisitBody(attribute.mutable_g());
        for (onnx::GraphProto& body : *attribute.mutable_graphs()) VisitBody(&body);
      }
    }
  }

 private:
  using Names = absl::flat_hash_set<std::string>;

  void VisitBody(onnx::GraphProto* body) {
    Names names;
    for (const onnx::ValueInfoProto& input : body->input()) names.insert(input.name());
    for (const onnx::TensorProto& initializer : body->initializer()) names.insert(initializer.name());
    for (const auto& initializer : body->sparse_initializer()) names.insert(initializer.values().name());
    for (const onnx::NodeProto& node : body->node()) names.insert(node.output().begin(), node.output().end());
    own_.push_back(std::move(names));
    VisitNodes(body);
    for (onnx::ValueInfoProto& output : *body->mutable_output()) {
      if (output.has_name()) Visit(nullptr, -1, output.mutable_name());
    }
    own_.pop_back();
  }

  void Visit(const onnx::NodeProto* node, int input, std::string* name) {
    if (name->empty()) return;
    if (std::any_of(own_.begin(), own_.end(), [&](const Names& names) { return names.contains(*name); })) return;
    visit_(node, input, name);
  }

  ReadVisitor visit_;
  std::vector<Names> own_;  // of the bodies around, outermost first
};

}  // namespace

void VisitReads(onnx::GraphProto* graph, ReadVisitor visit) { ReadWalk(visit).VisitNodes(graph); }

void VisitGraphs(const onnx::GraphProto& graph, absl::FunctionRef<void(const onnx::GraphProto&)> visit) {
  visit(graph);
  for (const onnx::NodeProto& node : graph.node()) {
    for (const onnx::AttributeProto& attribute : node.attribute()) {
      if (attribute.has_g()) VisitGraphs(attribute.g(), visit);
      for (const onnx::GraphProto& body : attribute.graphs()) VisitGraphs(body, visit);
    }
  }
}

}  // namespace calib::server
