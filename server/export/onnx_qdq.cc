#include <string>
#include <utility>
#include <vector>

#include "proto/codec/quantization_codec.h"
#include "server/export/checks.h"
#include "server/export/formats.h"
#include "server/export/onnx_conventions.h"
#include "server/export/qdq/model_memory.h"
#include "server/export/qdq/qdq_model.h"
#include "server/export/writing_memory.h"

namespace calib::server {
namespace {

class OnnxQdqExporter final : public Exporter {
 public:
  ExportConventions conventions() const override {
    ExportConventions conventions = OnnxConventions();
    conventions.input = ExportConventions::Input::kRequired;
    return conventions;
  }

  uint64_t InputMemory(absl::string_view input) const override { return input.size() + ModelMemory(input); }

  uint64_t TensorMemory(const ExportTensor& tensor) const override {
    // Another copy of the qparams; two nodes and two constants, in the parsed model and in the file, with nine names.
    constexpr uint64_t kTensor = kTensorBytes + 8192, kChannel = 64;
    return kTensor + 60 * tensor.name.size() + tensor.qparams.SpaceUsedLong() + kChannel * ChannelsOf(tensor);
  }

  absl::Status Begin(const v1::ExportOptions& options, std::string input) override {
    model_ = std::move(input);
    options_.activations_only = options.onnx_qdq().activations_only();
    options_.float_weights = options.onnx_qdq().float_weights();
    options_.skip_unexportable = options.skip_unexportable();
    const absl::StatusOr<MethodSpec> method = DecodeMethodSpec(options.weight_method());
    if (!method.ok()) return method.status();
    options_.weight_method = *method;
    const absl::StatusOr<QuantSpec> spec = DecodeQuantSpec(options.weight_spec());
    if (!spec.ok()) return spec.status();
    options_.weight_spec = *spec;
    if (options.weight_spec().granularity() == v1::QUANT_GRANULARITY_UNSPECIFIED) {
      options_.weight_spec.granularity = QuantGranularity::kPerChannel;
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Check(const ExportTensor& tensor) override { return CheckHasRange(tensor); }

  absl::StatusOr<ExportedFile> Write(absl::Span<const ExportTensor> tensors) override {
    ExportedFile file;
    std::vector<QdqTensor> wanted;
    for (const ExportTensor& tensor : tensors) {
      if (tensor.is_weight && options_.activations_only) {
        file.omitted.push_back(
            {tensor.name, NotExportable(tensor, "it is a weight, and activations_only is asked for")});
      } else {
        wanted.push_back({tensor.name, tensor.qparams, tensor.is_weight});
      }
    }
    options_.abandoned = abandoned();
    absl::StatusOr<QdqModel> model = MakeQdqModel(std::move(model_), wanted, options_);
    if (!model.ok()) return model.status();
    file.bytes = std::move(model->bytes);
    file.from_input = std::move(model->from_model);
    for (QdqOmission& omission : model->omitted) {
      file.omitted.push_back({std::move(omission.name), std::move(omission.reason)});
    }
    return file;
  }

  std::string model_;
  QdqOptions options_;
};

}  // namespace

std::unique_ptr<Exporter> NewOnnxQdqExporter() { return std::make_unique<OnnxQdqExporter>(); }

}  // namespace calib::server
