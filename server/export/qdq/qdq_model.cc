#include "server/export/qdq/qdq_model.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/codec/error.h"
#include "server/export/qdq/graph_index.h"
#include "server/export/qdq/onnx_model.h"
#include "server/export/qdq/qdq_builder.h"
#include "server/export/qdq/weight_calibration.h"

namespace calib::server {
namespace {

// Those that count, in name order. NOT_EXPORTABLE when two have one name.
absl::StatusOr<std::vector<const QdqTensor*>> SortedTensors(absl::Span<const QdqTensor> tensors, bool weights) {
  std::vector<const QdqTensor*> sorted;
  for (const QdqTensor& tensor : tensors) {
    if (weights || !tensor.weight) sorted.push_back(&tensor);
  }
  std::sort(sorted.begin(), sorted.end(), [](const QdqTensor* a, const QdqTensor* b) { return a->name < b->name; });
  const auto twice = std::adjacent_find(sorted.begin(), sorted.end(),
                                        [](const QdqTensor* a, const QdqTensor* b) { return a->name == b->name; });
  if (twice == sorted.end()) return sorted;
  return MakeError(v1::ERROR_REASON_NOT_EXPORTABLE,
                   absl::StrCat("layers \"", twice[0]->qparams.layer(), "\" and \"", twice[1]->qparams.layer(),
                                "\" are both tensor \"", twice[0]->name, "\" of the model; leave one out"),
                   {{"layer", twice[1]->qparams.layer()}});
}

absl::Status AboutTensor(const QdqTensor& tensor, const absl::Status& status) {
  const std::string& layer = tensor.qparams.layer();
  return MakeError(GetReason(status),
                   absl::StrCat("tensor \"", tensor.name, "\"",
                                layer.empty() || layer == tensor.name ? "" : absl::StrCat(" (layer \"", layer, "\")"),
                                ": ", status.message()),
                   {{"layer", layer}});
}

}  // namespace

absl::StatusOr<QdqModel> MakeQdqModel(std::string model, absl::Span<const QdqTensor> tensors,
                                      const QdqOptions& options) {
  if (!options.activations_only) {
    if (absl::Status status = CheckWeightSpec(options.weight_method, options.weight_spec); !status.ok()) {
      return status;
    }
  }
  const absl::StatusOr<std::vector<const QdqTensor*>> sorted = SortedTensors(tensors, !options.activations_only);
  if (!sorted.ok()) return sorted.status();
  absl::StatusOr<onnx::ModelProto> parsed = ParseOnnxModel(model);
  if (!parsed.ok()) return parsed.status();
  std::string().swap(model);  // models are large, and it is not read again
  absl::StatusOr<GraphIndex> index = GraphIndex::Make(parsed->mutable_graph());
  if (!index.ok()) return index.status();

  QdqModel result;
  QdqBuilder builder(&*parsed, &*index, &options);
  for (const QdqTensor* const tensor : *sorted) {
    if (options.abandoned && options.abandoned()) return absl::CancelledError("the model is not wanted any more");
    absl::Status status = tensor->weight ? builder.QuantizeWeight(*tensor) : builder.QuantizeActivation(*tensor);
    if (status.ok()) continue;
    status = AboutTensor(*tensor, status);
    if (!options.skip_unexportable || GetReason(status) != v1::ERROR_REASON_NOT_EXPORTABLE) return status;
    if (tensor->weight) builder.Keep(tensor->name);
    result.omitted.push_back({tensor->name, std::move(status)});
  }
  if (!options.activations_only) {
    if (absl::Status status = builder.QuantizeOtherWeights(&result.from_model); !status.ok()) return status;
  }
  builder.Apply();
  absl::StatusOr<std::string> bytes = SerializeOnnxModel(*parsed);
  if (!bytes.ok()) return bytes.status();
  result.bytes = *std::move(bytes);
  return result;
}

}  // namespace calib::server
