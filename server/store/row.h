#ifndef CALIB_SERVER_STORE_ROW_H_
#define CALIB_SERVER_STORE_ROW_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/message_lite.h"

namespace calib::server {

// The values of the RocksDB store: format version, message, checksum; FORMAT.md has the bytes.

inline constexpr char kFormatVersion = 1;

struct Row {
  std::string value;
  uint64_t checksum = 0;  // the one at the value's end
};

// No message is larger: protobuf and RocksDB keep none of 2 GiB.
inline constexpr size_t kMaxRowBytes = size_t{1} << 30;

// The value that `key` gets. RESOURCE_EXHAUSTED: the message is over kMaxRowBytes.
absl::StatusOr<Row> EncodeRow(absl::string_view key, const google::protobuf::MessageLite& message);

// Of a value that was checked; borrows from it.
struct RowView {
  absl::string_view message;
  uint64_t checksum = 0;
};

// Checks version and checksum. DATA_LOSS: damaged. FAILED_PRECONDITION: written by a newer calibd.
absl::StatusOr<RowView> CheckRow(absl::string_view key, absl::string_view value);
// DATA_LOSS: not this message.
absl::Status ParseRow(const RowView& row, google::protobuf::MessageLite* message);

}  // namespace calib::server

#endif  // CALIB_SERVER_STORE_ROW_H_
