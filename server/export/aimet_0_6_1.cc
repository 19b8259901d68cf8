#include <string>
#include <utility>

#include "server/export/aimet_encoding.h"
#include "server/export/checks.h"
#include "server/export/formats.h"

namespace calib::server {
namespace {

// Truth values are words in this version.
const char* Word(bool value) { return value ? "True" : "False"; }

Json Encodings061(const v1::LayerQParams& qparams) {
  Json list = Json::array();
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

 private:
  absl::Status Check(const ExportTensor& tensor) override { return CheckAimetOffsets(tensor); }

  absl::StatusOr<ExportedFile> Write(absl::Span<const ExportTensor> tensors) override {
    Json activations = Json::object(), parameters = Json::object();
    for (const ExportTensor& tensor : tensors) {
      AddKey(tensor.is_weight ? &parameters : &activations, tensor.name, Encodings061(tensor.qparams));
    }
    return ExportedFile{.bytes = JsonText({{"version", "0.6.1"},
                                           {"activation_encodings", std::move(activations)},
                                           {"param_encodings", std::move(parameters)},
                                           {"quantizer_args", AimetQuantizerArgs(tensors, Word(true), Word(false))}})};
  }
};

}  // namespace

std::unique_ptr<Exporter> NewAimet061Exporter() { return std::make_unique<Aimet061Exporter>(); }

}  // namespace calib::server
