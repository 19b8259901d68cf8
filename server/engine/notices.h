#ifndef CALIB_SERVER_ENGINE_NOTICES_H_
#define CALIB_SERVER_ENGINE_NOTICES_H_

#include <functional>
#include <utility>
#include <vector>

namespace calib::server {

// Calls that a change of state made under a lock leaves to be made after it: whoever holds the locks delivers once it
// holds none, exactly once. Not thread-safe.
class [[nodiscard]] Notices {
 public:
  void Add(std::function<void()> notice) { notices_.push_back(std::move(notice)); }

  void Append(Notices more) {
    for (std::function<void()>& notice : more.notices_) notices_.push_back(std::move(notice));
  }

  void Deliver() {
    for (const std::function<void()>& notice : std::exchange(notices_, {})) notice();
  }

 private:
  std::vector<std::function<void()>> notices_;
};

}  // namespace calib::server

#endif  // CALIB_SERVER_ENGINE_NOTICES_H_
