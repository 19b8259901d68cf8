#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "server/export/aimet_encoding.h"
#include "server/export/checks.h"
#include "server/export/formats.h"
#include "server/export/writing_memory.h"

namespace calib::server {
namespace {

// The type as ONNX spells it.
std::string OutputType(const QuantType& type) {
  if (type.kind == CodeKind::kFloat8E4M3) return "float8e4m3fn";
  if (type.kind == CodeKind::kFloat8E5M2) return "float8e5m2";
  return type.Name();
}

Json Encoding200(const ExportTensor& tensor) {
  const v1::LayerQParams& qparams = tensor.qparams;
  const bool per_channel = IsPerChannel(qparams);
  Json encoding = {{"name", tensor.name}, {"output_dtype", OutputType(TypeOf(qparams))}};
  encoding["y_scale"] = per_channel ? JsonArray(qparams.scale()) : JsonNumber(qparams.scale(0));
  const auto& zero_points = qparams.zero_point();
  if (std::any_of(zero_points.begin(), zero_points.end(), [](int64_t z) { return z != 0; })) {
    encoding["y_zero_point"] =
        per_channel ? Json(std::vector<int64_t>(zero_points.begin(), zero_points.end())) : Json(zero_points.Get(0));
  }
  if (per_channel) encoding["axis"] = qparams.channel_axis();
  return encoding;
}

class Aimet200Exporter final : public Exporter {
 public:
  ExportConventions conventions() const override { return AimetConventions(); }

  uint64_t TensorMemory(const ExportTensor& tensor) const override {
    // A line with a scale and one with a zero point, which are copied as the object grows.
    constexpr uint64_t kText = 12 + kFloatText + kZeroPointText;
    constexpr uint64_t kChannel = sizeof(int64_t) + 4 * kJsonElement + kTextGrowth * kText;
    return kTensorBytes + JsonNameBytes(tensor.name) + kChannel * ChannelsOf(tensor);
  }

 private:
  absl::Status Check(const ExportTensor& tensor) override {
    if (!IsFloat8(TypeOf(tensor.qparams).kind)) {
      if (absl::Status status = CheckAimetInteger(tensor); !status.ok()) return status;
    }
    if (absl::Status status = CheckChannelAxis(tensor); !status.ok()) return status;
    return CheckHasRange(tensor);
  }

  absl::StatusOr<ExportedFile> Write(absl::Span<const ExportTensor> tensors) override {
    Json encodings = Json::array();
    for (const ExportTensor& tensor : tensors) encodings.push_back(Encoding200(tensor));
    return ExportedFile{.bytes = JsonText({{"version", "2.0.0"}, {"encodings", std::move(encodings)}})};
  }
};

}  // namespace

std::unique_ptr<Exporter> NewAimet200Exporter() { return std::make_unique<Aimet200Exporter>(); }

}  // namespace calib::server
