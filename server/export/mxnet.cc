#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/export/checks.h"
#include "server/export/formats.h"
#include "server/export/json_text.h"
#include "server/export/writing_memory.h"

namespace calib::server {
namespace {

class MxnetExporter final : public Exporter {
 public:
  ExportConventions conventions() const override {
    // "auto", the type that MXNet's own quantize_model takes.
    const QuantSpec auto8 = {.type = {.kind = CodeKind::kAuto8}, .preset = QuantPreset::kMxnet};
    return {.activations = auto8, .weights = auto8};
  }

  // As MXNet looks them up, whether they are weights or not.
  std::string NameOf(absl::string_view layer, bool /*is_weight*/) const override {
    return absl::StrCat(layer, "_output");
  }

  uint64_t TensorMemory(const ExportTensor& tensor) const override { return kTensorBytes + JsonNameBytes(tensor.name); }

 private:
  absl::Status Check(const ExportTensor& tensor) override {
    if (absl::Status status = CheckPerTensor(tensor); !status.ok()) return status;
    return CheckHasRange(tensor);
  }

  absl::StatusOr<ExportedFile> Write(absl::Span<const ExportTensor> tensors) override {
    Json file = JsonObject(tensors.size());
    for (const ExportTensor& tensor : tensors) {
      const v1::LayerQParams& qparams = tensor.qparams;
      AddKey(
          &file, tensor.name,
          {JsonNumber(static_cast<float>(qparams.clip_min(0))), JsonNumber(static_cast<float>(qparams.clip_max(0)))});
    }
    return ExportedFile{.bytes = JsonText(file)};
  }
};

}  // namespace

std::unique_ptr<Exporter> NewMxnetExporter() { return std::make_unique<MxnetExporter>(); }

}  // namespace calib::server
