#include <algorithm>
#include <bit>
#include <cstdint>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "proto/codec/error.h"
#include "server/export/checks.h"
#include "server/export/formats.h"
#include "server/export/writing_memory.h"

namespace calib::server {
namespace {

constexpr char kDefaultVersion[] = "10.3.0";
constexpr absl::string_view kAlgorithms[] = {"EntropyCalibration2", "EntropyCalibration", "MinMaxCalibration",
                                             "LegacyCalibration"};

// NV_TENSORRT_VERSION of a release: 8.6.1 is 8601, 10.3.0 is 100300.
absl::StatusOr<int> VersionNumber(absl::string_view version) {
  const std::vector<absl::string_view> parts = absl::StrSplit(version, '.');
  int major = 0, minor = 0, patch = 0;
  if (parts.size() != 3 || !absl::SimpleAtoi(parts[0], &major) || !absl::SimpleAtoi(parts[1], &minor) ||
      !absl::SimpleAtoi(parts[2], &patch) || major < 1 || minor < 0 || minor > (major < 10 ? 9 : 99) || patch < 0 ||
      patch > 99) {
    return InvalidField("tensorrt_cache.version",
                        absl::StrCat("\"", version, "\" is no release of TensorRT; write it as 8.6.1 or 10.3.0"));
  }
  if (major > 10) {
    return InvalidField("tensorrt_cache.version", absl::StrCat("TensorRT ", version,
                                                               " reads no calibration cache, 10 was the last that "
                                                               "did; export onnx-qdq, with symmetric int8, for it"));
  }
  return (major < 10 ? major * 1000 : major * 10000) + minor * 100 + patch;
}

class TensorrtCacheExporter final : public Exporter {
 public:
  ExportConventions conventions() const override {
    const QuantSpec int8 = {.preset = QuantPreset::kTensorrt};
    return {.activations = int8, .weights = int8};
  }

  absl::Status Begin(const v1::ExportOptions& options, std::string) override {
    const v1::TensorrtCacheOptions& cache = options.tensorrt_cache();
    const absl::StatusOr<int> version = VersionNumber(cache.version().empty() ? kDefaultVersion : cache.version());
    if (!version.ok()) return version.status();
    absl::string_view algorithm = kAlgorithms[0];
    if (!cache.algorithm().empty()) {
      algorithm = cache.algorithm();
      if (std::find(std::begin(kAlgorithms), std::end(kAlgorithms), algorithm) == std::end(kAlgorithms)) {
        return InvalidField("tensorrt_cache.algorithm",
                            absl::StrCat("\"", algorithm, "\" is none; use ", absl::StrJoin(kAlgorithms, ", ")));
      }
    }
    header_ = absl::StrCat("TRT-", *version, "-", algorithm, "\n");
    return absl::OkStatus();
  }

  uint64_t TensorMemory(const ExportTensor& tensor) const override {
    return kTensorBytes + kTextGrowth * tensor.name.size();
  }

 private:
  absl::Status Check(const ExportTensor& tensor) override {
    // ONNX Runtime ends the name at its first colon, trtexec at its last.
    if (absl::StrContains(tensor.name, ':')) {
      return NotExportable(tensor, absl::StrCat("the name \"", tensor.name,
                                                "\" has a colon, at which readers of a TensorRT cache cut it; rename "
                                                "it, or use onnxruntime-table or onnx-qdq"));
    }
    if (absl::Status status = CheckNameIsOneLine(tensor); !status.ok()) return status;
    if (absl::Status status = CheckSymmetricInt8(tensor); !status.ok()) return status;
    return CheckHasRange(tensor);
  }

  absl::StatusOr<ExportedFile> Write(absl::Span<const ExportTensor> tensors) override {
    std::string text = header_;
    for (const ExportTensor& tensor : tensors) {
      absl::StrAppendFormat(&text, "%s: %08x\n", tensor.name, std::bit_cast<uint32_t>(tensor.qparams.scale(0)));
    }
    return ExportedFile{.bytes = std::move(text)};
  }

  std::string header_;
};

}  // namespace

std::unique_ptr<Exporter> NewTensorrtCacheExporter() { return std::make_unique<TensorrtCacheExporter>(); }

}  // namespace calib::server
