#include <string>
#include <utility>

#include "server/export/aimet_encoding.h"
#include "server/export/checks.h"
#include "server/export/formats.h"
#include "server/export/writing_memory.h"

namespace calib::server {
namespace {

// Truth values are words in this version.
const char* Word(bool value) { return value ? "True" : "False"; }

Json Encodings061(const v1::LayerQParams& qparams) {
  Json list = Json::array();
  list.get_ref<Json::array_t&>().reserve(static_cast<size_t>(qparams.scale_size()));
  const int64_t steps = qparams.qmax() - qparams.qmin();
  for (int i = 0; i < qparams.scale_size(); ++i) {
    const double scale = JsonNumber(qparams.scale(i));  // as it prints, so that min and max fit it
    const int64_t offset = AimetOffset(qparams, i);
    list.push_back({{"bitwidth", TypeOf(qparams).bits},
                    {"dtype", "int"},
                    {"is_symmetric", Word(IsSymmetric(qparams))},
                    {"max", JsonNumber(scale * static_cast<double>(steps + offset))},
                    {"min", JsonNumber(scale * static_cast<double>(offset))},
                    {"offset", offset},
                    {"scale", scale}});
  }
  return list;
}

class Aimet061Exporter final : public Exporter {
 public:
  ExportConventions conventions() const override { return AimetConventions(); }

  uint64_t TensorMemory(const ExportTensor& tensor) const override {
    // Nine lines a channel, two of its values are words.
    constexpr uint64_t kText = 140 + 2 * kDoubleText + kFloatText + kZeroPointText;
    constexpr uint64_t kChannel = kJsonElement + JsonObjectBytes(7) + 2 * kJsonString + kTextGrowth * kText;
    return kTensorBytes + JsonNameBytes(tensor.name) + kChannel * ChannelsOf(tensor);
  }

 private:
  absl::Status Check(const ExportTensor& tensor) override { return CheckAimetOffsets(tensor); }

  absl::StatusOr<ExportedFile> Write(absl::Span<const ExportTensor> tensors) override {
    Json activations = JsonObject(tensors.size()), parameters = JsonObject(tensors.size());
    for (const ExportTensor& tensor : tensors) {
      AddKey(tensor.is_weight ? &parameters : &activations, tensor.name, Encodings061(tensor.qparams));
    }
    Json file = JsonObject(4);
    AddKey(&file, "version", "0.6.1");
    AddKey(&file, "activation_encodings", std::move(activations));
    AddKey(&file, "param_encodings", std::move(parameters));
    AddKey(&file, "quantizer_args", AimetQuantizerArgs(tensors, Word(true), Word(false)));
    return ExportedFile{.bytes = JsonText(file)};
  }
};

}  // namespace

std::unique_ptr<Exporter> NewAimet061Exporter() { return std::make_unique<Aimet061Exporter>(); }

}  // namespace calib::server
