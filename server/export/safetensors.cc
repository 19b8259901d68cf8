#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "proto/codec/error.h"
#include "server/export/checks.h"
#include "server/export/formats.h"
#include "server/export/json_text.h"
#include "server/export/safetensors_config.h"
#include "server/export/writing_memory.h"

namespace calib::server {
namespace {

constexpr absl::string_view kKeyCache = ".k_cache", kValueCache = ".v_cache";
constexpr absl::string_view kScale = "_scale", kZeroPoint = "_zero_point";

// One tensor of the file.
struct Entry {
  const char* dtype;
  std::vector<int> shape;
  std::string bytes;
};

ScaleRole RoleOf(const ExportTensor& tensor) {
  if (tensor.is_weight) return ScaleRole::kWeight;
  const std::string& layer = tensor.qparams.layer();
  return absl::EndsWith(layer, kKeyCache) || absl::EndsWith(layer, kValueCache) ? ScaleRole::kKvCache
                                                                                : ScaleRole::kInput;
}

std::string ZeroPointName(const std::string& scale_name) {
  return absl::StrCat(absl::StripSuffix(scale_name, kScale), kZeroPoint);
}

template <typename Unsigned>
void AppendLittleEndian(Unsigned value, std::string* bytes) {
  for (size_t i = 0; i < sizeof(value); ++i) bytes->push_back(static_cast<char>(value >> (8 * i)));
}

// The header, padded so that the data begin at a multiple of 8, and the data, one tensor behind the other.
std::string FileText(const std::string& config, const std::vector<std::pair<std::string, Entry>>& entries) {
  Json header = JsonObject(entries.size() + 1);
  AddKey(&header, "__metadata__", {{"format", "pt"}, {"quantization_config", config}});
  std::string data;
  for (const auto& [name, entry] : entries) {
    const size_t begin = data.size();
    data += entry.bytes;
    AddKey(&header, name,
           {{"dtype", entry.dtype}, {"shape", entry.shape}, {"data_offsets", std::vector<size_t>{begin, data.size()}}});
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  std::string file;
  AppendLittleEndian(uint64_t{text.size()}, &file);
  return absl::StrCat(file, text, data);
}

class SafetensorsExporter final : public Exporter {
 public:
  ExportConventions conventions() const override {
    const QuantSpec fp8 = {.type = {.kind = CodeKind::kFloat8E4M3}};
    return {.activations = fp8, .weights = fp8, .weights_per_channel = true};
  }

  std::string NameOf(absl::string_view layer, bool is_weight) const override {
    if (is_weight) return absl::StrCat(layer, kScale);
    for (const auto& [cache, scale] : {std::pair(kKeyCache, ".k"), std::pair(kValueCache, ".v")}) {
      if (absl::EndsWith(layer, cache)) return absl::StrCat(absl::StripSuffix(layer, cache), scale, kScale);
    }
    return absl::StrCat(layer, ".input", kScale);
  }

  absl::Status Begin(const v1::ExportOptions& options, std::string) override {
    least_kv_scale_ = options.safetensors().least_kv_scale();
    if (std::isfinite(least_kv_scale_) && least_kv_scale_ >= 0) return absl::OkStatus();
    return InvalidField("safetensors.least_kv_scale",
                        absl::StrCat(least_kv_scale_, " is no scale; give a number from 0 on"));
  }

  uint64_t TensorMemory(const ExportTensor& tensor) const override {
    // A scale and a zero point: in an entry that grows, and behind one another in a text that grows or in two.
    constexpr uint64_t kBytes = sizeof(float) + 1;
    constexpr uint64_t kChannel = 2 * kTextGrowth * kBytes;
    // The name and its zero point's: in lists, in the header, and in its text that is copied into the file.
    return 3 * kTensorBytes + 4 * JsonNameBytes(tensor.name) + kChannel * ChannelsOf(tensor);
  }

 private:
  absl::Status Check(const ExportTensor& tensor) override {
    const ScaleRole role = RoleOf(tensor);
    const absl::StatusOr<QuantizationArgs> args = ArgsOf(tensor, role);
    if (!args.ok()) return args.status();
    if (absl::Status status = CheckHasRange(tensor); !status.ok()) return status;
    if (tensor.name == "__metadata__") return NotExportable(tensor, "its name is the file's own; rename it");
    std::vector<std::string> names = {tensor.name};
    if (!args->symmetric) {
      if (!absl::EndsWith(tensor.name, kScale)) {
        return NotExportable(tensor, absl::StrCat("the name \"", tensor.name, "\" does not end in ", kScale,
                                                  ", so that its zero point has none; rename it"));
      }
      names.push_back(ZeroPointName(tensor.name));
    }
    for (const std::string& name : names) {
      if (!names_.contains(name)) continue;
      return NotExportable(tensor, absl::StrCat("another layer has a tensor \"", name, "\"; rename one of them"));
    }
    std::optional<QuantizationArgs>& known = args_[role];
    if (known.has_value() && *known != *args) {
      return NotExportable(tensor, absl::StrCat("it is ", args->ToString(), ", and others of its kind are ",
                                                known->ToString(), "; the file describes one for all: ask for it"));
    }
    known = *args;
    names_.insert(names.begin(), names.end());
    return absl::OkStatus();
  }

  absl::StatusOr<ExportedFile> Write(absl::Span<const ExportTensor> tensors) override {
    // The wider type first, each in name order: tensors lie at multiples of their size.
    std::vector<std::pair<std::string, Entry>> scales, zero_points;
    for (const ExportTensor& tensor : tensors) {
      const v1::LayerQParams& qparams = tensor.qparams;
      const ScaleRole role = RoleOf(tensor);
      std::vector<int> shape = {qparams.scale_size()};
      if (role == ScaleRole::kWeight && IsPerChannel(qparams)) shape.push_back(1);
      Entry scale{"F32", shape, ""}, zero_point{"I8", shape, ""};
      for (int i = 0; i < qparams.scale_size(); ++i) {
        const float value =
            role == ScaleRole::kKvCache ? std::max(qparams.scale(i), least_kv_scale_) : qparams.scale(i);
        AppendLittleEndian(std::bit_cast<uint32_t>(value), &scale.bytes);
        zero_point.bytes.push_back(static_cast<char>(qparams.zero_point(i)));
      }
      scales.emplace_back(tensor.name, std::move(scale));
      if (!IsSymmetric(qparams)) zero_points.emplace_back(ZeroPointName(tensor.name), std::move(zero_point));
    }
    std::move(zero_points.begin(), zero_points.end(), std::back_inserter(scales));
    return ExportedFile{.bytes = FileText(QuantizationConfigText(args_[ScaleRole::kInput], args_[ScaleRole::kWeight],
                                                                 args_[ScaleRole::kKvCache]),
                                          scales)};
  }

  float least_kv_scale_ = 0;
  std::set<std::string> names_;  // of tensors in the file
  std::map<ScaleRole, std::optional<QuantizationArgs>> args_;
};

}  // namespace

std::unique_ptr<Exporter> NewSafetensorsExporter() { return std::make_unique<SafetensorsExporter>(); }

}  // namespace calib::server
