#include "proto/codec/utf8.h"

#include <cstddef>
#include <cstdint>

#include "absl/strings/str_cat.h"

namespace calib {
namespace {

// Bytes of the well-formed character that `text` begins with; 0 when there is none.
size_t CharacterLength(absl::string_view text) {
  const auto byte = [text](size_t i) { return i < text.size() ? static_cast<uint8_t>(text[i]) : uint8_t{0}; };
  const auto continues = [&byte](size_t i) { return byte(i) >= 0x80 && byte(i) <= 0xbf; };
  if (text.empty()) return 0;
  const uint8_t lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead <= 0xdf) return continues(1) ? 2 : 0;
  if (lead >= 0xe0 && lead <= 0xef) {
    const bool second = byte(1) >= (lead == 0xe0 ? 0xa0 : 0x80) && byte(1) <= (lead == 0xed ? 0x9f : 0xbf);
    return second && continues(2) ? 3 : 0;
  }
  if (lead >= 0xf0 && lead <= 0xf4) {
    const bool second = byte(1) >= (lead == 0xf0 ? 0x90 : 0x80) && byte(1) <= (lead == 0xf4 ? 0x8f : 0xbf);
    return second && continues(2) && continues(3) ? 4 : 0;
  }
  return 0;
}

}  // namespace

bool IsValidUtf8(absl::string_view text) {
  while (const size_t length = CharacterLength(text)) text.remove_prefix(length);
  return text.empty();
}

std::string ToValidUtf8(absl::string_view text) {
  std::string valid;
  valid.reserve(text.size());
  while (!text.empty()) {
    const size_t length = CharacterLength(text);
    absl::StrAppend(&valid, length == 0 ? absl::string_view("\xef\xbf\xbd") : text.substr(0, length));
    text.remove_prefix(length == 0 ? 1 : length);
  }
  return valid;
}

}  // namespace calib
