#include "server/store/checksum.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace calib::server {

uint64_t Checksum(absl::string_view first, absl::string_view second) {
  XXH3_state_t state;
  XXH3_64bits_reset(&state);
  XXH3_64bits_update(&state, first.data(), first.size());
  XXH3_64bits_update(&state, second.data(), second.size());
  return XXH3_64bits_digest(&state);
}

uint64_t SeededHash(absl::string_view text, uint64_t seed) {
  return XXH3_64bits_withSeed(text.data(), text.size(), seed);
}

}  // namespace calib::server
