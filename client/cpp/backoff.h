#ifndef CALIB_CLIENT_CPP_BACKOFF_H_
#define CALIB_CLIENT_CPP_BACKOFF_H_

#include <algorithm>

#include "absl/random/random.h"
#include "absl/time/time.h"

namespace calib::client {

// Waits between repetitions: doubling from `least` to `greatest`, each shortened by a random part of up to a half, so
// that clients cut off together don't come back together. Not thread-safe.
class Backoff {
 public:
  Backoff(absl::Duration least, absl::Duration greatest) : least_(least), greatest_(greatest), next_(least) {}

  absl::Duration Next() {
    const absl::Duration wait = next_ * absl::Uniform(random_, 0.5, 1.0);
    next_ = std::min(2 * next_, greatest_);
    return wait;
  }
  void Reset() { next_ = least_; }

 private:
  const absl::Duration least_;
  const absl::Duration greatest_;
  absl::Duration next_;
  absl::BitGen random_;
};

}  // namespace calib::client

#endif  // CALIB_CLIENT_CPP_BACKOFF_H_
