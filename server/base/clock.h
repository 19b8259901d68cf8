#ifndef CALIB_SERVER_BASE_CLOCK_H_
#define CALIB_SERVER_BASE_CLOCK_H_

#include "absl/time/time.h"

namespace calib::server {

// Time. Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  // Wall time: for what people read, and for what has to outlive the process.
  virtual absl::Time Now() const = 0;
  // Time since some moment, for deadlines: it never goes back.
  virtual absl::Duration Elapsed() const = 0;

  // The system's clock; lives for ever.
  static const Clock* System();
};

}  // namespace calib::server

#endif  // CALIB_SERVER_BASE_CLOCK_H_
