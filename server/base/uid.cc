#include "server/base/uid.h"

#include <random>

#include "absl/strings/str_cat.h"

namespace calib::server {

std::string RandomUid() {
  std::random_device device;
  std::string uid;
  for (int i = 0; i < 4; ++i) absl::StrAppend(&uid, absl::Hex(device(), absl::kZeroPad8));
  return uid;
}

}  // namespace calib::server
