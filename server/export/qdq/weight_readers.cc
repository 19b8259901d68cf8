#include "server/export/qdq/weight_readers.h"

#include <algorithm>

#include "server/export/qdq/onnx_model.h"

namespace calib::server {
namespace {

bool TransposesSecondInput(const onnx::NodeProto& gemm) {
  return std::any_of(gemm.attribute().begin(), gemm.attribute().end(),
                     [](const auto& attribute) { return attribute.name() == "transB" && attribute.i() != 0; });
}

// The output channels' axis of a weight with `rank` axes; unset when the node reads it as something else.
std::optional<int> ChannelAxis(const GraphIndex::Read& read, int rank) {
  const onnx::NodeProto& node = *read.node;
  if (IsOnnxNode(node, "MatMul")) return read.input == 0 ? rank - 2 : rank - 1;
  if (read.input != 1) return std::nullopt;
  if (IsOnnxNode(node, "Conv")) return 0;
  if (IsOnnxNode(node, "ConvTranspose")) return 1;
  if (IsOnnxNode(node, "Gemm")) return TransposesSecondInput(node) ? 0 : 1;
  return std::nullopt;
}

}  // namespace

WeightReaders FindWeightReaders(const GraphIndex::Value& value) {
  const int rank = value.constant->dims_size();
  WeightReaders readers;
  bool differ = rank < 2;
  for (const GraphIndex::Read& read : value.reads) {
    const std::optional<int> axis = ChannelAxis(read, rank);
    if (!axis.has_value()) continue;
    differ = differ || (readers.any && readers.channel_axis != axis);
    readers.any = true;
    readers.channel_axis = axis;
  }
  if (differ) readers.channel_axis.reset();
  return readers;
}

}  // namespace calib::server
