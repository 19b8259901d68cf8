#ifndef CALIB_PROTO_CODEC_UTF8_H_
#define CALIB_PROTO_CODEC_UTF8_H_

#include <string>

#include "absl/strings/string_view.h"

namespace calib {

// Whether `text` is well-formed UTF-8 (Unicode 15, table 3-7: no overlong forms, no surrogates, nothing above
// U+10FFFF). Protobuf refuses to parse strings that are not.
bool IsValidUtf8(absl::string_view text);

// `text` with U+FFFD in place of every byte that is not part of well-formed UTF-8.
std::string ToValidUtf8(absl::string_view text);

}  // namespace calib

#endif  // CALIB_PROTO_CODEC_UTF8_H_
