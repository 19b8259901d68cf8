#ifndef CALIB_SERVER_RPC_PAGE_H_
#define CALIB_SERVER_RPC_PAGE_H_

#include <cstddef>
#include <limits>
#include <string>

#include "absl/status/statusor.h"

namespace calib::server {

// A page of a listing in name order ends before it passes this many bytes, so that it fits in every client's default
// limit of 4 MiB.
inline constexpr size_t kPageBytes = 2 << 20;
// A number of layers that no session has.
inline constexpr size_t kAllLayers = std::numeric_limits<size_t>::max() / 2;

// Where a page begins and how long it may be.
struct Page {
  std::string after;  // the name before the page's first; empty at the beginning
  size_t size = 0;    // names at most
};

// INVALID_FIELD: a negative size, or a token that no answer gave. A size of 0 means `default_size`; more than
// `max_size` means `max_size`.
absl::StatusOr<Page> ParsePage(int page_size, const std::string& token, size_t default_size, size_t max_size);

// The token of the page after the one that ends with `last_name`.
std::string NextPageToken(const std::string& last_name);

}  // namespace calib::server

#endif  // CALIB_SERVER_RPC_PAGE_H_
