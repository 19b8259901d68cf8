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

absl::StatusOr<ExportedFile> Exporter::Finish() {
  std::sort(tensors_.begin(), tensors_.end(),
            [](const ExportTensor& a, const ExportTensor& b) { return a.name < b.name; });
  return Write(tensors_);
}

std::unique_ptr<Exporter> NewExporter(v1::ExportFormat format) {
  switch (format) {
    case v1::EXPORT_FORMAT_JSON:
      return NewJsonExporter();
    case v1::EXPORT_FORMAT_TENSORRT_CACHE:
      return NewTensorrtCacheExporter();
    default:
      return nullptr;
  }
}

}  // namespace calib::server
