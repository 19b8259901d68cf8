#include "server/base/allocator.h"

#include <malloc.h>

namespace calib::server {

void KeepFreedMemory() {
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, 128 << 20);
  mallopt(M_TOP_PAD, 4 << 20);
}

}  // namespace calib::server
