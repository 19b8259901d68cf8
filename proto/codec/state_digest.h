#ifndef CALIB_PROTO_CODEC_STATE_DIGEST_H_
#define CALIB_PROTO_CODEC_STATE_DIGEST_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"

namespace calib {

// XXH3, 64 bits, of the bytes of one record of a state file.
uint64_t StateChecksum(absl::string_view bytes);

// XXH3, 128 bits, of the bytes of a state file, as they come. Not thread-safe.
class StateDigest {
 public:
  StateDigest();
  ~StateDigest();

  void Add(absl::string_view bytes);
  // Of what was added so far: 16 bytes, big-endian.
  std::string Bytes() const;

 private:
  struct State;
  const std::unique_ptr<State> state_;
};

}  // namespace calib

#endif  // CALIB_PROTO_CODEC_STATE_DIGEST_H_
