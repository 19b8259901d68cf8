#include "server/export/writing_memory.h"

namespace calib::server {

uint64_t JsonNameBytes(absl::string_view name) {
  uint64_t text = 0;
  for (const char byte : name) {
    const auto code = static_cast<unsigned char>(byte);
    if (code < 0x20) {
      text += 6;  // \u001f
    } else if (byte == '"' || byte == '\\') {
      text += 2;
    } else {
      text += code < 0x80 ? 1 : 3;  // what is no UTF-8 gives way to a mark of three bytes
    }
  }
  return 3 * name.size() + kTextGrowth * text;
}

}  // namespace calib::server
