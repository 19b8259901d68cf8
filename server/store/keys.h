#ifndef CALIB_SERVER_STORE_KEYS_H_
#define CALIB_SERVER_STORE_KEYS_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace calib::server {

// Keys of the RocksDB store, as FORMAT.md has them. In their order come the store's row, then each session by name: its
// own row, its workers by ordinal, its layers by name.

enum class RowKind : uint8_t { kStore, kSession, kWorker, kLayer };

// What a key says; borrows from it.
struct RowKey {
  RowKind kind = RowKind::kStore;
  absl::string_view session;
  uint32_t ordinal = 0;     // of a worker
  absl::string_view layer;  // of a layer

  // For people: `session "a", layer "x"`.
  std::string ToString() const;
};

// REQUIRES: the session's name has no zero byte.
std::string EncodeKey(const RowKey& key);
// DATA_LOSS: no row has such a key.
absl::StatusOr<RowKey> DecodeKey(absl::string_view key);

// Keys of a session's rows, its own included, begin with this, and no others do.
std::string SessionPrefix(absl::string_view session);

}  // namespace calib::server

#endif  // CALIB_SERVER_STORE_KEYS_H_
