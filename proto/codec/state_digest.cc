#include "proto/codec/state_digest.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace calib {

struct StateDigest::State {
  XXH3_state_t hash;
};

uint64_t StateChecksum(absl::string_view bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

StateDigest::StateDigest() : state_(std::make_unique<State>()) { XXH3_128bits_reset(&state_->hash); }

StateDigest::~StateDigest() = default;

void StateDigest::Add(absl::string_view bytes) { XXH3_128bits_update(&state_->hash, bytes.data(), bytes.size()); }

std::string StateDigest::Bytes() const {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(&state_->hash));
  return {reinterpret_cast<const char*>(canonical.digest), sizeof(canonical.digest)};
}

}  // namespace calib
