#ifndef CALIB_SERVER_STORE_ROW_SUMS_H_
#define CALIB_SERVER_STORE_ROW_SUMS_H_

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"

namespace calib::server {

// The checksums of one session's worker and layer rows, and their sum: kept in memory, so that a commit that replaces
// some rows knows the new sum. Some 8 bytes a worker and 30 a layer. Not thread-safe.
class RowSums {
 public:
  // `seed` must be of chance: layers are told apart by hashes of their names, and clients choose names.
  explicit RowSums(uint64_t seed) : seed_(seed) {}

  // Adds a row or replaces it. REQUIRES: worker ordinals come without gaps.
  void SetWorker(uint32_t ordinal, uint64_t checksum);
  void SetLayer(absl::string_view name, uint64_t checksum);

  uint64_t workers() const { return workers_.size(); }
  uint64_t layers() const { return layers_.size(); }
  // Modulo 2^64.
  uint64_t sum() const { return sum_; }

 private:
  uint64_t seed_;
  uint64_t sum_ = 0;
  std::vector<uint64_t> workers_;                   // by ordinal
  absl::flat_hash_map<uint64_t, uint64_t> layers_;  // by hash of the name
};

}  // namespace calib::server

#endif  // CALIB_SERVER_STORE_ROW_SUMS_H_
