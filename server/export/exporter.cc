#include "server/export/exporter.h"

#include <algorithm>
#include <utility>

#include "server/export/checks.h"
#include "server/export/formats.h"

namespace calib::server {

absl::Status Exporter::Add(ExportTensor tensor) {
  if (tensor.name.empty()) return NotExportable(tensor, "its name in the file is empty; give it one");
  if (absl::Status status = Check(tensor); !status.ok()) return status;
  tensors_.push_back(std::move(tensor));
  return absl::OkStatus();
}

absl::StatusOr<ExportedFile> Exporter::Finish(const std::function<bool()>& abandoned) {
  abandoned_ = abandoned;
  std::sort(tensors_.begin(), tensors_.end(),
            [](const ExportTensor& a, const ExportTensor& b) { return a.name < b.name; });
  return Write(tensors_);
}

std::unique_ptr<Exporter> NewExporter(v1::ExportFormat format) {
  switch (format) {
    case v1::EXPORT_FORMAT_JSON:
      return NewJsonExporter();
    case v1::EXPORT_FORMAT_CSV:
      return NewCsvExporter();
    case v1::EXPORT_FORMAT_ONNX_QDQ:
      return NewOnnxQdqExporter();
    case v1::EXPORT_FORMAT_TENSORRT_CACHE:
      return NewTensorrtCacheExporter();
    case v1::EXPORT_FORMAT_ONNXRUNTIME_TABLE:
      return NewOnnxruntimeTableExporter();
    case v1::EXPORT_FORMAT_ONNXRUNTIME_OVERRIDES:
      return NewOnnxruntimeOverridesExporter();
    case v1::EXPORT_FORMAT_AIMET_0_6_1:
      return NewAimet061Exporter();
    case v1::EXPORT_FORMAT_AIMET_1_0_0:
      return NewAimet100Exporter();
    case v1::EXPORT_FORMAT_AIMET_2_0_0:
      return NewAimet200Exporter();
    case v1::EXPORT_FORMAT_SAFETENSORS:
      return NewSafetensorsExporter();
    case v1::EXPORT_FORMAT_NCNN:
      return NewNcnnExporter();
    case v1::EXPORT_FORMAT_MXNET:
      return NewMxnetExporter();
    default:
      return nullptr;
  }
}

}  // namespace calib::server
