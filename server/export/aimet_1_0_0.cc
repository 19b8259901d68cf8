#include <utility>

#include "server/export/aimet_encoding.h"
#include "server/export/checks.h"
#include "server/export/formats.h"

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

 private:
  absl::Status Check(const ExportTensor& tensor) override { return CheckAimetOffsets(tensor); }

  absl::StatusOr<ExportedFile> Write(absl::Span<const ExportTensor> tensors) override {
    Json activations = Json::array(), parameters = Json::array();
    for (const ExportTensor& tensor : tensors) {
      (tensor.is_weight ? parameters : activations).push_back(Encoding100(tensor));
    }
    return ExportedFile{.bytes = JsonText({{"version", "1.0.0"},
                                           {"activation_encodings", std::move(activations)},
                                           {"param_encodings", std::move(parameters)},
                                           {"quantizer_args", AimetQuantizerArgs(tensors, true, false)},
                                           {"excluded_layers", Json::array()}})};
  }
};

}  // namespace

std::unique_ptr<Exporter> NewAimet100Exporter() { return std::make_unique<Aimet100Exporter>(); }

}  // namespace calib::server
