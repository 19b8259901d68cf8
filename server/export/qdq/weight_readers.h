#ifndef CALIB_SERVER_EXPORT_QDQ_WEIGHT_READERS_H_
#define CALIB_SERVER_EXPORT_QDQ_WEIGHT_READERS_H_

#include <optional>

#include "server/export/qdq/graph_index.h"

namespace calib::server {

// What reads a constant as a weight.
struct WeightReaders {
  bool any = false;
  std::optional<int> channel_axis;  // of the output channels; unset when they take one scale alone
};

// Conv, ConvTranspose, Gemm and MatMul among the readers of a constant, in the main graph and in bodies. They take one
// scale alone when the constant has one axis, their channels lie along different axes, or MatMul reads it as its first
// input or with more than two axes.
// REQUIRES: value.constant is set.
WeightReaders FindWeightReaders(const GraphIndex::Value& value);

}  // namespace calib::server

#endif  // CALIB_SERVER_EXPORT_QDQ_WEIGHT_READERS_H_
