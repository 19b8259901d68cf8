#ifndef CALIB_SERVER_EXPORT_SAFETENSORS_CONFIG_H_
#define CALIB_SERVER_EXPORT_SAFETENSORS_CONFIG_H_

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "server/export/exporter.h"

namespace calib::server {

// What a scale in a safetensors file belongs to.
enum class ScaleRole { kInput, kWeight, kKvCache };

// How compressed-tensors describes a kind of tensors.
struct QuantizationArgs {
  int num_bits = 8;
  const char* type = "float";  // or "int"
  bool symmetric = true;
  const char* strategy = "tensor";  // "channel" of weights, "attn_head" of the KV cache

  friend bool operator==(const QuantizationArgs&, const QuantizationArgs&) = default;
  std::string ToString() const;
};

// NOT_EXPORTABLE: compressed-tensors has no such type or granularity.
absl::StatusOr<QuantizationArgs> ArgsOf(const ExportTensor& tensor, ScaleRole role);

// The object `quantization_config` of a model's config.json, as far as the file's tensors say. Unset: none of the kind.
std::string QuantizationConfigText(const std::optional<QuantizationArgs>& inputs,
                                   const std::optional<QuantizationArgs>& weights,
                                   const std::optional<QuantizationArgs>& kv_cache);

}  // namespace calib::server

#endif  // CALIB_SERVER_EXPORT_SAFETENSORS_CONFIG_H_
