#include "client/cli/progress_bar.h"

#include <unistd.h>

#include <algorithm>
#include <iostream>
#include <string>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/cli/format.h"

namespace calib::cli {
namespace {

constexpr int kBarColumns = 30;
constexpr char kEraseLine[] = "\r\x1b[K";

}  // namespace

ProgressBar::ProgressBar(uint64_t total_bytes)
    : total_bytes_(total_bytes), start_(absl::Now()), terminal_(isatty(STDERR_FILENO) == 1) {}

ProgressBar::~ProgressBar() {
  if (drawn_) std::cerr << kEraseLine << std::flush;
}

void ProgressBar::Update(uint64_t done_bytes) {
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start_);
  if (!terminal_ || seconds < 1) return;
  drawn_ = true;
  if (total_bytes_ == 0) {
    std::cerr << kEraseLine << FormatBytes(static_cast<double>(done_bytes)) << "  "
              << FormatBytes(static_cast<double>(done_bytes) / seconds) << "/s" << std::flush;
    return;
  }
  const double share = std::min(1.0, static_cast<double>(done_bytes) / static_cast<double>(total_bytes_));
  std::string bar(static_cast<size_t>(share * kBarColumns), '=');
  bar.resize(kBarColumns, ' ');
  // All read, and waiting for the server to say that it is durable.
  const std::string rate = done_bytes < total_bytes_ ? FormatBytes(static_cast<double>(done_bytes) / seconds) + "/s"
                                                     : "waiting for the server";
  std::cerr << kEraseLine << absl::StrFormat("[%s] %3.0f%%  %s  %s", bar, 100 * share, FormatBytes(done_bytes), rate)
            << std::flush;
}

}  // namespace calib::cli
