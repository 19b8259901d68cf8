#ifndef CALIB_SERVER_EXPORT_QDQ_QDQ_BUILDER_H_
#define CALIB_SERVER_EXPORT_QDQ_QDQ_BUILDER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "onnx/onnx_pb.h"
#include "server/export/qdq/graph_index.h"
#include "server/export/qdq/node_insertion.h"
#include "server/export/qdq/qdq_model.h"
#include "server/export/qdq/tensor_quantization.h"

namespace calib::server {

// Checks what may be quantized, and quantizes it. A call that fails has changed nothing.
class QdqBuilder {
 public:
  // Borrows all. `index` is of `model`, which has to be of ParseOnnxModel.
  QdqBuilder(onnx::ModelProto* model, GraphIndex* index, const QdqOptions* options);

  // Errors as MakeQdqModel says, without the tensor's name. REQUIRES: no call had this name before.
  absl::Status QuantizeActivation(const QdqTensor& tensor);
  absl::Status QuantizeWeight(const QdqTensor& tensor);
  // Leaves a weight as it is.
  void Keep(const std::string& weight) { done_.insert(weight); }
  // Weights that no call above named, by their own values; `quantized` gets their names, in order.
  absl::Status QuantizeOtherWeights(std::vector<std::string>* quantized);
  // Changes the model, once, at the end.
  void Apply() { insertion_.Apply(); }

 private:
  // The value of a name, or NOT_EXPORTABLE with a near name.
  absl::StatusOr<const GraphIndex::Value*> Find(const QdqTensor& tensor) const;
  // NOT_EXPORTABLE when it is not of float32, or may be not.
  absl::Status CheckFloat(const GraphIndex::Value& value) const;
  absl::Status QuantizeByOwnValues(const std::string& name, const GraphIndex::Value& value);
  // NOT_EXPORTABLE when the model can't have it so.
  absl::Status CheckFits(const TensorQuantization& quantization, absl::Span<const int64_t> dims) const;
  void PutWeight(const std::string& name, const GraphIndex::Value& value, const TensorQuantization& quantization,
                 absl::Span<const float> values);
  void QuantizeValue(const std::string& name, const TensorQuantization& quantization);

  onnx::ModelProto* model_;
  GraphIndex* index_;
  const QdqOptions* options_;
  bool other_floats_;  // HoldsOtherFloats
  NodeInsertion insertion_;
  absl::flat_hash_set<std::string> done_;  // weights
};

}  // namespace calib::server

#endif  // CALIB_SERVER_EXPORT_QDQ_QDQ_BUILDER_H_
