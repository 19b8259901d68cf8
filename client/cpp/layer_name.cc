#include "client/cpp/layer_name.h"

#include <cstddef>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "proto/codec/error.h"
#include "proto/codec/utf8.h"

namespace calib::client {
namespace {

constexpr size_t kMaxLayerNameBytes = 512;

}  // namespace

absl::Status CheckLayerName(absl::string_view name) {
  if (!name.empty() && name.size() <= kMaxLayerNameBytes && IsValidUtf8(name)) return absl::OkStatus();
  return MakeError(v1::ERROR_REASON_LAYER_NAME_INVALID,
                   absl::StrCat("layer name \"", absl::CHexEscape(name.substr(0, 64)), "\" of ", name.size(),
                                " bytes: must be UTF-8 of 1 to ", kMaxLayerNameBytes, " bytes"));
}

}  // namespace calib::client
