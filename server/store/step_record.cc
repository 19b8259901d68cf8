#include "server/store/step_record.h"

namespace calib::server {

size_t FoldedStep::MemoryBytes() const {
  size_t bytes = sizeof(*this) + ranks.capacity() / 8;
  for (const LayerResult& layer : layers) {
    bytes += sizeof(layer) + layer.name.capacity() + layer.rows.capacity() * sizeof(Row) +
             layer.params.capacity() * sizeof(QParams) + layer.learned_zero_point.capacity() * sizeof(float);
  }
  return bytes;
}

}  // namespace calib::server
