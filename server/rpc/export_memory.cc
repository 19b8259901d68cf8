#include "server/rpc/export_memory.h"

#include "absl/strings/str_cat.h"
#include "server/engine/validate.h"

namespace calib::server {

absl::Status ExportMemory::AddInput(uint64_t bytes) {
  if (input_bytes_ + bytes > limits_.max_input_bytes) {
    return LimitExceeded(absl::StrCat("the input has more than ", limits_.max_input_bytes, " bytes"),
                         "--max-export-input-bytes", limits_.max_input_bytes);
  }
  if (absl::Status status = Add(bytes); !status.ok()) return status;
  input_bytes_ += bytes;
  return absl::OkStatus();
}

absl::Status ExportMemory::Add(uint64_t bytes) {
  const auto signed_bytes = static_cast<int64_t>(bytes);
  const int64_t held = counters_->export_file_bytes.fetch_add(signed_bytes);
  if (static_cast<uint64_t>(held + signed_bytes) > limits_.max_bytes) {
    counters_->export_file_bytes -= signed_bytes;
    return LimitExceeded(absl::StrCat("exports under way would hold ", held + signed_bytes,
                                      " bytes or more while they are made; export fewer layers at a time, or raise "
                                      "the limit"),
                         "--max-export-bytes", limits_.max_bytes);
  }
  bytes_ += bytes;
  return absl::OkStatus();
}

void ExportMemory::Drop() {
  counters_->export_file_bytes -= static_cast<int64_t>(bytes_);
  bytes_ = 0;
  input_bytes_ = 0;
}

}  // namespace calib::server
