// The kill points of the program calibd_kill_points. The environment variable CALIBD_KILL_POINT has entries NAME:N:kill
// and NAME:N:stop, separated by commas: the N-th time that the point NAME is reached, the process kills itself, or
// prints "stopped at NAME" to stdout and stops itself until SIGCONT. NAME:0:count does neither, and prints "reached
// NAME" the first time.

#include <signal.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "server/base/kill_point.h"

namespace calib::server {
namespace {

enum class KillAction { kNone, kKill, kStop, kCount };

struct KillPoint {
  std::atomic<uint64_t> reached{0};
  uint64_t when = 0;
  KillAction action = KillAction::kNone;
};

// Not by stdio: its lock may be held at a kill point, and stays so while the process stands still.
void WriteLine(int fd, const std::string& line) {
  const std::string text = line + "\n";
  static_cast<void>(!write(fd, text.data(), text.size()));
}

class KillPoints {
 public:
  KillPoints() {
    const char* const value = std::getenv("CALIBD_KILL_POINT");
    if (value == nullptr || *value == '\0') return;
    for (const absl::string_view entry : absl::StrSplit(value, ',')) {
      const std::vector<std::string> parts = absl::StrSplit(entry, ':');
      KillPoint* const point = parts.size() == 3 ? Find(parts[0].c_str()) : nullptr;
      if (point == nullptr || !absl::SimpleAtoi(parts[1], &point->when) || !SetAction(parts[2], point)) {
        WriteLine(STDERR_FILENO, absl::StrCat("calibd_kill_points: CALIBD_KILL_POINT: \"", std::string(entry),
                                              "\" is not NAME:N:kill or NAME:N:stop with N at least 1, or "
                                              "NAME:0:count, of a name in server/base/kill_point.h"));
        _exit(2);
      }
    }
  }

  // Not found: null.
  KillPoint* Find(const char* name) {
    for (size_t i = 0; i < points_.size(); ++i) {
      if (std::strcmp(kill_points::kAll[i], name) == 0) return &points_[i];
    }
    return nullptr;
  }

 private:
  static bool SetAction(const std::string& name, KillPoint* point) {
    if (name == "kill") point->action = KillAction::kKill;
    if (name == "stop") point->action = KillAction::kStop;
    if (name == "count") point->action = KillAction::kCount;
    return point->action != KillAction::kNone && (point->action == KillAction::kCount) == (point->when == 0);
  }

  std::array<KillPoint, kill_points::kAll.size()> points_;
};

// Read before main, so that a mistake ends the program before anything else.
KillPoints all_kill_points;

}  // namespace

void ReachKillPoint(const char* name) {
  KillPoint* const point = all_kill_points.Find(name);
  if (point == nullptr) {
    WriteLine(STDERR_FILENO, absl::StrCat("calibd_kill_points: the kill point ", name, " is not in kAll"));
    std::abort();
  }
  if (point->action == KillAction::kNone) return;
  const uint64_t times = ++point->reached;
  if (point->action == KillAction::kCount) {
    if (times == 1) WriteLine(STDOUT_FILENO, absl::StrCat("reached ", name));
    return;
  }
  if (times != point->when) return;
  if (point->action == KillAction::kKill) raise(SIGKILL);
  WriteLine(STDOUT_FILENO, absl::StrCat("stopped at ", name));
  raise(SIGSTOP);
}

}  // namespace calib::server
