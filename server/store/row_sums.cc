#include "server/store/row_sums.h"

#include "server/store/checksum.h"

namespace calib::server {

void RowSums::SetWorker(uint32_t ordinal, uint64_t checksum) {
  if (ordinal == workers_.size()) workers_.push_back(0);
  sum_ += checksum - workers_[ordinal];
  workers_[ordinal] = checksum;
}

void RowSums::SetLayer(absl::string_view name, uint64_t checksum) {
  uint64_t& row = layers_[SeededHash(name, seed_)];
  sum_ += checksum - row;
  row = checksum;
}

}  // namespace calib::server
