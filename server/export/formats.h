#ifndef CALIB_SERVER_EXPORT_FORMATS_H_
#define CALIB_SERVER_EXPORT_FORMATS_H_

#include <memory>

#include "server/export/exporter.h"

namespace calib::server {

// Each in a file of its own; README.md describes them.
std::unique_ptr<Exporter> NewJsonExporter();
std::unique_ptr<Exporter> NewTensorrtCacheExporter();

}  // namespace calib::server

#endif  // CALIB_SERVER_EXPORT_FORMATS_H_
