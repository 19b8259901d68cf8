#include <utility>

#include "server/export/aimet_encoding.h"
#include "server/export/checks.h"
#include "server/export/formats.h"
#include "server/export/writing_memory.h"

namespace calib::server {
namespace {

Json Encoding100(const ExportTensor& tensor) {
  const v1::LayerQParams& qparams = tensor.qparams;
  Json offsets = Json::array();
  for (int i = 0; i < qparams.scale_size(); ++i) offsets.push_back(AimetOffset(qparams, i));
  return {{"name", tensor.name},
          {"enc_type", IsPerChannel(qparams) ? "PER_CHANNEL" : "PER_TENSOR"},
          {"dtype", "INT"},
          {"bw", TypeOf(qparams).bits},
          {"is_sym", IsSymmetric(qparams)},
          {"scale", JsonArray(qparams.scale())},
          {"offset", std::move(offsets)}};
}

class Aimet100Exporter final : public Exporter {
 public:
  ExportConventions conventions() const override { return AimetConventions(); }

  uint64_t TensorMemory(const ExportTensor& tensor) const override {
    // Nine lines a tensor; and one with a scale and one with an offset a channel.
    constexpr uint64_t kTensor = kTensorBytes + JsonObjectBytes(7) + 3 * kJsonString + kTextGrowth * 200;
    constexpr uint64_t kText = 12 + kFloatText + kZeroPointText;
    constexpr uint64_t kChannel = kJsonElement + kJsonGrownElement + kTextGrowth * kText;
    return kTensor + JsonNameBytes(tensor.name) + kChannel * ChannelsOf(tensor);
  }

 private:
  absl::Status Check(const ExportTensor& tensor) override { return CheckAimetOffsets(tensor); }

  absl::StatusOr<ExportedFile> Write(absl::Span<const ExportTensor> tensors) override {
    Json activations = Json::array(), parameters = Json::array();
    for (const ExportTensor& tensor : tensors) {
      (tensor.is_weight ? parameters : activations).push_back(Encoding100(tensor));
    }
    Json file = JsonObject(5);
    AddKey(&file, "version", "1.0.0");
    AddKey(&file, "activation_encodings", std::move(activations));
    AddKey(&file, "param_encodings", std::move(parameters));
    AddKey(&file, "quantizer_args", AimetQuantizerArgs(tensors, true, false));
    AddKey(&file, "excluded_layers", Json::array());
    return ExportedFile{.bytes = JsonText(file)};
  }
};

}  // namespace

std::unique_ptr<Exporter> NewAimet100Exporter() { return std::make_unique<Aimet100Exporter>(); }

}  // namespace calib::server
