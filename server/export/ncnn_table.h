#ifndef CALIB_SERVER_EXPORT_NCNN_TABLE_H_
#define CALIB_SERVER_EXPORT_NCNN_TABLE_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace calib::server {

// An ncnn int8 calibration table: rows of a key and its numbers, in their order. A key with `_param_` in it is of
// weights, others are of activations. Not thread-safe.
class NcnnTable {
 public:
  static constexpr absl::string_view kWeightMark = "_param_";
  static constexpr size_t kMostKeyBytes = 255;

  // Whether a key is one of weights that ncnn looks for: LAYER_param_NUMBER.
  static bool EndsAsWeights(absl::string_view key);

  // EXPORT_INPUT_INVALID: the text is no such table, or not one that ncnn reads to its end; the message has the line.
  static absl::StatusOr<NcnnTable> Parse(absl::string_view text);

  // The most bytes that Parse and ToText hold for a text. Short lines take many times what they take in it.
  static uint64_t MemoryOf(absl::string_view text);

  // Replaces the row of this key where it is, or adds one at the end.
  void Put(const std::string& key, const std::string& numbers);
  // Whether there is the row without which ncnn takes the layer of this name to have no weights.
  bool HasWeights(absl::string_view layer) const;
  std::string ToText() const;

 private:
  std::vector<std::string> lines_;
  std::map<std::string, size_t, std::less<>> rows_;  // lines by key
};

}  // namespace calib::server

#endif  // CALIB_SERVER_EXPORT_NCNN_TABLE_H_
