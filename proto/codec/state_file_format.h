#ifndef CALIB_PROTO_CODEC_STATE_FILE_FORMAT_H_
#define CALIB_PROTO_CODEC_STATE_FILE_FORMAT_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "quant/layer_statistics.h"

namespace calib::state_file {

// Framing that writer and reader of state files share; STATE_FILE.md describes it.

// Not text, and not what a transfer as text leaves alone.
inline constexpr absl::string_view kMagic =
    "\x89"
    "calibd\n";
inline constexpr size_t kPreambleBytes = 12;
inline constexpr size_t kLengthBytes = 4;
inline constexpr size_t kChecksumBytes = 8;

template <typename Integer>
void AppendLittleEndian(Integer value, std::string* bytes) {
  for (size_t i = 0; i < sizeof(value); ++i) bytes->push_back(static_cast<char>(value >> (8 * i)));
}

// REQUIRES: bytes.size() >= sizeof(Integer).
template <typename Integer>
Integer ReadLittleEndian(absl::string_view bytes) {
  Integer value = 0;
  for (size_t i = 0; i < sizeof(value); ++i) value |= Integer{static_cast<uint8_t>(bytes[i])} << (8 * i);
  return value;
}

// `values` and those of these channels; stays at 2^64 - 1.
inline uint64_t AddValues(uint64_t values, const LayerStatistics& statistics) {
  for (const ChannelStatistics& channel : statistics.channels()) {
    const uint64_t more = channel.range.values();
    values = values + more < values ? ~uint64_t{0} : values + more;
  }
  return values;
}

}  // namespace calib::state_file

#endif  // CALIB_PROTO_CODEC_STATE_FILE_FORMAT_H_
