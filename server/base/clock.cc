#include "server/base/clock.h"

#include "absl/time/clock.h"

namespace calib::server {
namespace {

class SystemClock : public Clock {
 public:
  absl::Time Now() const override { return absl::Now(); }
};

}  // namespace

const Clock* Clock::System() {
  static const Clock* const clock = new SystemClock;
  return clock;
}

}  // namespace calib::server
