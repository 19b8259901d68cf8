#ifndef CALIB_CLIENT_CPP_TALLY_H_
#define CALIB_CLIENT_CPP_TALLY_H_

#include <cstddef>
#include <cstdint>
#include <map>

namespace calib::client {

// A multiset of numbers that answers how many different ones it has, and the least. Not thread-safe.
class Tally {
 public:
  void Add(uint64_t number) { ++counts_[number]; }
  // REQUIRES: it was added.
  void Remove(uint64_t number) {
    const auto found = counts_.find(number);
    if (--found->second == 0) counts_.erase(found);
  }

  bool empty() const { return counts_.empty(); }
  size_t distinct() const { return counts_.size(); }
  // REQUIRES: !empty().
  uint64_t least() const { return counts_.begin()->first; }

 private:
  std::map<uint64_t, size_t> counts_;
};

}  // namespace calib::client

#endif  // CALIB_CLIENT_CPP_TALLY_H_
