#ifndef CALIB_SERVER_EXPORT_QDQ_GRAPH_INDEX_H_
#define CALIB_SERVER_EXPORT_QDQ_GRAPH_INDEX_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "onnx/onnx_pb.h"

namespace calib::server {

// What the names in a model's main graph stand for, as the graph was when the index was made. Borrows the graph's
// nodes and tensors.
class GraphIndex {
 public:
  // One input of a node, in the main graph or a body.
  struct Read {
    const onnx::NodeProto* node = nullptr;
    int input = 0;
  };
  // A value of the main graph.
  struct Value {
    const onnx::NodeProto* node = nullptr;        // that makes it; unset for inputs and initializers
    int node_position = -1;                       // of `node` in the graph
    const onnx::TensorProto* constant = nullptr;  // of an initializer or a Constant node's `value`
    bool is_constant = false;                     // also a sparse initializer, or a Constant node of another kind
    bool is_input = false;                        // of the graph; together with a constant: its default
    bool is_output = false;                       // of the graph
    const onnx::TypeProto* type = nullptr;        // as the graph declares it; null when it doesn't
    int32_t inferred_type = 0;                    // of InferElementType, for what the graph doesn't declare
    std::vector<Read> reads;

    // onnx.TensorProto.DataType; 0 when neither the model nor inference says, -1 when it is no tensor.
    int32_t ElementType() const;
    // An operator that makes or takes codes is beside it: it is quantized already.
    bool IsQuantized() const;
  };

  // EXPORT_INPUT_INVALID when a name is defined twice. The graph is not changed.
  static absl::StatusOr<GraphIndex> Make(onnx::GraphProto* graph);

  // Null when the main graph has no such value.
  const Value* Find(absl::string_view name) const;
  // The names of the main graph's constants, or of its other values, in order.
  std::vector<std::string> Names(bool constants) const;
  // Whether some body has a value or node of this name, or the main graph.
  bool IsTaken(absl::string_view name) const { return taken_.contains(name); }
  // A name that neither values nor nodes have, nor a name that was given before: `wanted`, or that with _1, _2, ...
  std::string NewName(absl::string_view wanted);

 private:
  GraphIndex() = default;

  absl::Status AddValues(const onnx::GraphProto& graph);
  absl::Status Define(const std::string& name, Value&& value);
  void Declare(const onnx::GraphProto& graph);
  void InferTypes(const onnx::GraphProto& graph);

  absl::flat_hash_map<std::string, Value> values_;
  absl::flat_hash_set<std::string> taken_;
};

}  // namespace calib::server

#endif  // CALIB_SERVER_EXPORT_QDQ_GRAPH_INDEX_H_
