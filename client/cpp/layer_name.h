#ifndef CALIB_CLIENT_CPP_LAYER_NAME_H_
#define CALIB_CLIENT_CPP_LAYER_NAME_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace calib::client {

// LAYER_NAME_INVALID unless `name` is UTF-8 of 1 to 512 bytes.
absl::Status CheckLayerName(absl::string_view name);

}  // namespace calib::client

#endif  // CALIB_CLIENT_CPP_LAYER_NAME_H_
