#include <string>
#include <utility>

#include "server/export/checks.h"
#include "server/export/formats.h"
#include "server/export/json_text.h"
#include "server/export/onnx_conventions.h"
#include "server/export/writing_memory.h"

namespace calib::server {
namespace {

class OnnxruntimeOverridesExporter final : public Exporter {
 public:
  ExportConventions conventions() const override { return OnnxConventions(); }

  uint64_t TensorMemory(const ExportTensor& tensor) const override {
    // Four lines a channel.
    constexpr uint64_t kText = 48 + kFloatText + kZeroPointText;
    constexpr uint64_t kChannel = kJsonGrownElement + JsonObjectBytes(2) + kTextGrowth * kText;
    return kTensorBytes + JsonNameBytes(tensor.name) + kChannel * ChannelsOf(tensor);
  }

 private:
  absl::Status Check(const ExportTensor& tensor) override {
    if (absl::Status status = CheckChannelAxis(tensor); !status.ok()) return status;
    return CheckHasRange(tensor);
  }

  absl::StatusOr<ExportedFile> Write(absl::Span<const ExportTensor> tensors) override {
    Json file = JsonObject(tensors.size());
    for (const ExportTensor& tensor : tensors) {
      const v1::LayerQParams& qparams = tensor.qparams;
      Json channels = Json::array();
      for (int i = 0; i < qparams.scale_size(); ++i) {
        channels.push_back({{"scale", JsonNumber(qparams.scale(i))}, {"zero_point", qparams.zero_point(i)}});
      }
      // The reader takes a list whose first entry has it as one entry a channel.
      if (IsPerChannel(qparams)) channels[0]["axis"] = qparams.channel_axis();
      AddKey(&file, tensor.name, std::move(channels));
    }
    return ExportedFile{.bytes = JsonText(file)};
  }
};

}  // namespace

std::unique_ptr<Exporter> NewOnnxruntimeOverridesExporter() { return std::make_unique<OnnxruntimeOverridesExporter>(); }

}  // namespace calib::server
