#ifndef CALIB_SERVER_EXPORT_ONNX_CONVENTIONS_H_
#define CALIB_SERVER_EXPORT_ONNX_CONVENTIONS_H_

#include "server/export/exporter.h"

namespace calib::server {

// What ONNX Runtime's tools make: uint8 affine activations; int8 symmetric weights, per channel; their own conventions.
ExportConventions OnnxConventions();

}  // namespace calib::server

#endif  // CALIB_SERVER_EXPORT_ONNX_CONVENTIONS_H_
