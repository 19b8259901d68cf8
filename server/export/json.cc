#include <string>
#include <vector>

#include "server/export/checks.h"
#include "server/export/formats.h"
#include "server/export/json_text.h"
#include "server/export/writing_memory.h"

namespace calib::server {
namespace {

Json LayerJson(const ExportTensor& tensor) {
  const v1::LayerQParams& qparams = tensor.qparams;
  Json json = {{"layer", qparams.layer()},
               {"name", tensor.name},
               {"weight", tensor.is_weight},
               {"method", MethodNameOf(qparams)},
               {"dtype", TypeOf(qparams).Name()},
               {"symmetric", IsSymmetric(qparams)},
               {"scale", JsonArray(qparams.scale())},
               {"zero_point", std::vector<int64_t>(qparams.zero_point().begin(), qparams.zero_point().end())},
               {"qmin", qparams.qmin()},
               {"qmax", qparams.qmax()},
               {"channel_axis", nullptr},
               {"min", JsonNumber(qparams.min())},
               {"max", JsonNumber(qparams.max())},
               {"clip_min", JsonArray(qparams.clip_min())},
               {"clip_max", JsonArray(qparams.clip_max())},
               {"count", qparams.count()},
               {"nan", qparams.nan()},
               {"inf", qparams.inf()},
               {"workers", qparams.workers()},
               {"mse", nullptr},
               {"sqnr_db", nullptr},
               {"clipped", nullptr}};
  if (qparams.has_channel_axis()) json["channel_axis"] = qparams.channel_axis();
  if (qparams.has_mse()) json["mse"] = JsonNumber(qparams.mse());
  if (qparams.has_sqnr_db()) json["sqnr_db"] = JsonNumber(qparams.sqnr_db());
  if (qparams.has_clipped()) json["clipped"] = JsonNumber(qparams.clipped());
  return json;
}

class JsonExporter final : public Exporter {
 public:
  ExportConventions conventions() const override { return {}; }

  uint64_t TensorMemory(const ExportTensor& tensor) const override {
    // Some 22 lines a tensor; and four lines a channel, whose values are copied as the object grows.
    constexpr uint64_t kTensor = kTensorBytes + 2 * JsonObjectBytes(22) + 22 * (kJsonString + kTextGrowth * 40);
    constexpr uint64_t kText = 24 + kFloatText + kZeroPointText + 2 * kDoubleText;
    constexpr uint64_t kChannel = sizeof(int64_t) + 8 * kJsonElement + kTextGrowth * kText;
    return kTensor + JsonNameBytes(tensor.name) + JsonNameBytes(tensor.qparams.layer()) + kChannel * ChannelsOf(tensor);
  }

  absl::Status Begin(const v1::ExportOptions& options, std::string) override {
    session_ = options.session();
    return absl::OkStatus();
  }

 private:
  absl::Status Check(const ExportTensor&) override { return absl::OkStatus(); }
  absl::StatusOr<ExportedFile> Write(absl::Span<const ExportTensor> tensors) override {
    Json layers = Json::array();
    for (const ExportTensor& tensor : tensors) layers.push_back(LayerJson(tensor));
    return ExportedFile{.bytes = JsonText({{"session", session_}, {"layers", std::move(layers)}})};
  }

  std::string session_;
};

}  // namespace

std::unique_ptr<Exporter> NewJsonExporter() { return std::make_unique<JsonExporter>(); }

}  // namespace calib::server
