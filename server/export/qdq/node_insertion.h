#ifndef CALIB_SERVER_EXPORT_QDQ_NODE_INSERTION_H_
#define CALIB_SERVER_EXPORT_QDQ_NODE_INSERTION_H_

#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "onnx/onnx_pb.h"
#include "server/export/qdq/graph_index.h"
#include "server/export/qdq/tensor_quantization.h"

namespace calib::server {

// Changes to a main graph. Nodes stay where they are until Apply, so that the index holds; each value is quantized at
// most once.
class NodeInsertion {
 public:
  // Both are borrowed. `index` is of `graph`.
  NodeInsertion(onnx::GraphProto* graph, GraphIndex* index) : graph_(graph), index_(index) {}

  // QuantizeLinear and DequantizeLinear behind a value, right after what makes it.
  void QuantizeValue(const std::string& name, const TensorQuantization& quantization);
  // In place of a constant its codes before DequantizeLinear. REQUIRES: as CodeTensor; the constant is an initializer
  // or of a Constant node, neither input nor output of the graph.
  void StoreCodes(const std::string& name, const TensorQuantization& quantization, absl::Span<const float> values);

  // Rewires readers and puts the nodes in. Call it once; the index is stale after it.
  void Apply();

 private:
  // Initializers of scale and zero point.
  struct Parameters {
    std::string scale;
    std::string zero_point;
  };
  Parameters AddParameters(const std::string& name, const TensorQuantization& quantization);
  onnx::NodeProto MakeNode(absl::string_view op_type, const std::string& value, const std::string& input,
                           const Parameters& parameters, const std::string& output,
                           const TensorQuantization& quantization);
  void RemoveDeclarations();

  onnx::GraphProto* graph_;
  GraphIndex* index_;
  std::vector<onnx::NodeProto> front_;                             // before the first node
  absl::flat_hash_map<int, std::vector<onnx::NodeProto>> behind_;  // by the position of the node before them
  absl::flat_hash_set<int> removed_;                               // positions of nodes
  absl::flat_hash_set<std::string> gone_;                          // values that are no more
  absl::flat_hash_map<std::string, std::string> renamed_;          // what readers read instead
};

}  // namespace calib::server

#endif  // CALIB_SERVER_EXPORT_QDQ_NODE_INSERTION_H_
