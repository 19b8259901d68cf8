#include "server/export/qdq/weight_readers.h"

#include <algorithm>

#include "server/export/qdq/onnx_model.h"

namespace calib::server {
namespace {

bool TransposesSecondInput(const onnx::NodeProto& gemm) {
  return std::any_of(gemm.attribute().begin(), gemm.attribute().end(),
                     [](const auto& attribute) { return attribute.name() == "transB" && attribute.i() != 0; });
}

bool ReadsWeight(const GraphIndex::Read& read) {
  const onnx::NodeProto& node = *read.node;
  if (IsOnnxNode(node, "MatMul")) return true;
  return read.input == 1 && (IsOnnxNode(node, "Conv") || IsOnnxNode(node, "ConvTranspose") || IsOnnxNode(node, "Gemm"));
}

// The output channels' axis of a weight with `rank` axes; unset when the node takes one scale alone. ONNX Runtime
// refuses a scale a channel of other operands of MatMul once it has made QLinearMatMul of it.
std::optional<int> ChannelAxis(const GraphIndex::Read& read, int rank) {
  const onnx::NodeProto& node = *read.node;
  if (rank < 2) return std::nullopt;
  if (IsOnnxNode(node, "Conv")) return 0;
  if (IsOnnxNode(node, "Gemm")) return TransposesSecondInput(node) ? 0 : 1;
  if (IsOnnxNode(node, "MatMul") && (read.input != 1 || rank != 2)) return std::nullopt;
  return 1;
}

}  // namespace

WeightReaders FindWeightReaders(const GraphIndex::Value& value) {
  const int rank = value.constant->dims_size();
  WeightReaders readers;
  bool differ = false;
  for (const GraphIndex::Read& read : value.reads) {
    if (!ReadsWeight(read)) continue;
    const std::optional<int> axis = ChannelAxis(read, rank);
    differ = differ || (readers.any && readers.channel_axis != axis);
    readers.any = true;
    readers.channel_axis = axis;
  }
  if (differ) readers.channel_axis.reset();
  return readers;
}

}  // namespace calib::server
