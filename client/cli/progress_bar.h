#ifndef CALIB_CLIENT_CLI_PROGRESS_BAR_H_
#define CALIB_CLIENT_CLI_PROGRESS_BAR_H_

#include <cstdint>

#include "absl/time/time.h"

namespace calib::cli {

// A line on stderr that is drawn over and over: bar, share, bytes and rate. Shown only on a terminal, and only once the
// work took a second. Not thread-safe.
class ProgressBar {
 public:
  // A total of 0 is not known: bytes and rate are shown.
  explicit ProgressBar(uint64_t total_bytes);
  // Erases the line.
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void Update(uint64_t done_bytes);

 private:
  const uint64_t total_bytes_;
  const absl::Time start_;
  const bool terminal_;
  bool drawn_ = false;
};

}  // namespace calib::cli

#endif  // CALIB_CLIENT_CLI_PROGRESS_BAR_H_
