#ifndef CALIB_SERVER_EXPORT_WRITING_MEMORY_H_
#define CALIB_SERVER_EXPORT_WRITING_MEMORY_H_

#include <bit>
#include <cstdint>

#include "absl/strings/string_view.h"
#include "server/export/exporter.h"
#include "server/export/json_text.h"

// What Exporter::TensorMemory is added up of. All are upper bounds in bytes, with what the allocator adds. Lengths of
// text are the longest that number_text.h and JsonNumber print.
namespace calib::server {

inline constexpr uint64_t kFloatText = 16, kDoubleText = 25;
// An int64, and a zero point, which has 32 bits at most.
inline constexpr uint64_t kIntegerText = 20, kZeroPointText = 11;

// Text that grows as it is appended to holds thrice its length: what it had, and twice that.
inline constexpr uint64_t kTextGrowth = 3;

// What the exporter's and the caller's lists and maps have of a tensor, without its names, and short text of its own.
inline constexpr uint64_t kTensorBytes = 1024;

// A Json in an array that grows like text, and in one that was reserved.
inline constexpr uint64_t kJsonElement = sizeof(Json), kJsonGrownElement = 3 * kJsonElement;
// A text value of up to 15 bytes.
inline constexpr uint64_t kJsonString = 48;
// An object of values and keys of up to 15 bytes, without what the values point to. Its list doubles as it grows.
constexpr uint64_t JsonObjectBytes(uint64_t keys) {
  return 64 + sizeof(Json::object_t::value_type) * std::bit_ceil(keys);
}
// A name that stands in a JSON file once: three copies, and its text with escapes.
uint64_t JsonNameBytes(absl::string_view name);

inline uint64_t ChannelsOf(const ExportTensor& tensor) { return static_cast<uint64_t>(tensor.qparams.scale_size()); }

}  // namespace calib::server

#endif  // CALIB_SERVER_EXPORT_WRITING_MEMORY_H_
