#ifndef CALIB_SERVER_EXPORT_FORMATS_H_
#define CALIB_SERVER_EXPORT_FORMATS_H_

#include <memory>

#include "server/export/exporter.h"

namespace calib::server {

// Each in a file of its own; README.md describes them.
std::unique_ptr<Exporter> NewJsonExporter();
std::unique_ptr<Exporter> NewCsvExporter();
std::unique_ptr<Exporter> NewOnnxQdqExporter();
std::unique_ptr<Exporter> NewTensorrtCacheExporter();
std::unique_ptr<Exporter> NewOnnxruntimeTableExporter();
std::unique_ptr<Exporter> NewOnnxruntimeOverridesExporter();
std::unique_ptr<Exporter> NewAimet061Exporter();
std::unique_ptr<Exporter> NewAimet100Exporter();
std::unique_ptr<Exporter> NewAimet200Exporter();
std::unique_ptr<Exporter> NewSafetensorsExporter();
std::unique_ptr<Exporter> NewNcnnExporter();
std::unique_ptr<Exporter> NewMxnetExporter();

}  // namespace calib::server

#endif  // CALIB_SERVER_EXPORT_FORMATS_H_
