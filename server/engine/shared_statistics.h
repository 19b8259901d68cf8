#ifndef CALIB_SERVER_ENGINE_SHARED_STATISTICS_H_
#define CALIB_SERVER_ENGINE_SHARED_STATISTICS_H_

#include <memory>
#include <utility>

#include "quant/layer_statistics.h"

namespace calib::server {

// Statistics of a layer, copied on write while a checkpoint or an export reads them, so that a cut costs no copy and
// ingestion goes on beside it. Never empty-handed. Guarded by its session's lock, but what Share and Freeze gave can be
// read without it.
class SharedStatistics {
 public:
  explicit SharedStatistics(LayerStatistics statistics) {
    Take(std::make_shared<LayerStatistics>(std::move(statistics)));
  }
  // Others may read them for as long as they like.
  explicit SharedStatistics(std::shared_ptr<const LayerStatistics> statistics) : current_(std::move(statistics)) {}

  const LayerStatistics& operator*() const { return *current_; }
  const LayerStatistics* operator->() const { return current_.get(); }

  // To change them; copies them first while they are shared, or if they are frozen. Valid until the next Share or
  // Freeze.
  LayerStatistics* Mutable() {
    if (own_ == nullptr || shared_) Take(std::make_shared<LayerStatistics>(*current_));
    return own_;
  }
  // They don't change from now on, until Release.
  std::shared_ptr<const LayerStatistics> Share() {
    shared_ = true;
    return current_;
  }
  // They never change again: who has them may read them for as long as it likes, and says nothing when it is done.
  std::shared_ptr<const LayerStatistics> Freeze() {
    own_ = nullptr;
    return current_;
  }
  // Nobody reads what Share gave any more.
  void Release() { shared_ = false; }

 private:
  void Take(std::shared_ptr<LayerStatistics> own) {
    own_ = own.get();
    current_ = std::move(own);
    shared_ = false;
  }

  std::shared_ptr<const LayerStatistics> current_;
  LayerStatistics* own_ = nullptr;  // current_, if it may be changed
  bool shared_ = false;
};

}  // namespace calib::server

#endif  // CALIB_SERVER_ENGINE_SHARED_STATISTICS_H_
