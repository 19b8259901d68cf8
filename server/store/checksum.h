#ifndef CALIB_SERVER_STORE_CHECKSUM_H_
#define CALIB_SERVER_STORE_CHECKSUM_H_

#include <cstdint>

#include "absl/strings/string_view.h"

namespace calib::server {

// XXH3, 64 bits, of the two one after the other.
uint64_t Checksum(absl::string_view first, absl::string_view second);

// XXH3, 64 bits. Nobody who does not know the seed can make up texts with the same hash.
uint64_t SeededHash(absl::string_view text, uint64_t seed);

}  // namespace calib::server

#endif  // CALIB_SERVER_STORE_CHECKSUM_H_
