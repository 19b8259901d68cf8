#include "server/store/row.h"

#include <cstddef>

#include "absl/strings/str_cat.h"
#include "server/store/checksum.h"

namespace calib::server {
namespace {

constexpr size_t kVersionBytes = 1;
constexpr size_t kChecksumBytes = 8;

}  // namespace

absl::StatusOr<Row> EncodeRow(absl::string_view key, const google::protobuf::MessageLite& message) {
  const size_t bytes = message.ByteSizeLong();
  if (bytes > kMaxRowBytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("it takes ", bytes, " bytes, and no row may take more than ", kMaxRowBytes));
  }
  Row row;
  row.value.reserve(kVersionBytes + bytes + kChecksumBytes);
  row.value.push_back(kFormatVersion);
  if (!message.AppendToString(&row.value)) return absl::InternalError("protobuf can't write it");
  row.checksum = Checksum(key, row.value);
  for (size_t i = 0; i < kChecksumBytes; ++i) row.value.push_back(static_cast<char>(row.checksum >> 8 * i));
  return row;
}

absl::StatusOr<RowView> CheckRow(absl::string_view key, absl::string_view value) {
  if (value.size() < kVersionBytes + kChecksumBytes) {
    return absl::DataLossError(absl::StrCat("its ", value.size(), " bytes are too few for a row"));
  }
  RowView row;
  const absl::string_view end = value.substr(value.size() - kChecksumBytes);
  for (size_t i = 0; i < kChecksumBytes; ++i) row.checksum |= uint64_t{static_cast<uint8_t>(end[i])} << 8 * i;
  if (Checksum(key, value.substr(0, value.size() - kChecksumBytes)) != row.checksum) {
    return absl::DataLossError("its checksum is wrong: it is damaged");
  }
  if (value.front() != kFormatVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("it has format version ", int{static_cast<uint8_t>(value.front())},
                     ", written by a newer calibd; this one reads version ", int{kFormatVersion}));
  }
  row.message = value.substr(kVersionBytes, value.size() - kVersionBytes - kChecksumBytes);
  return row;
}

absl::Status ParseRow(const RowView& row, google::protobuf::MessageLite* message) {
  if (message->ParseFromArray(row.message.data(), static_cast<int>(row.message.size()))) return absl::OkStatus();
  return absl::DataLossError("it is not the message that belongs there");
}

}  // namespace calib::server
