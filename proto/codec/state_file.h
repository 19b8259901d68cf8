#ifndef CALIB_PROTO_CODEC_STATE_FILE_H_
#define CALIB_PROTO_CODEC_STATE_FILE_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "calib/v1/state.pb.h"
#include "proto/codec/state_digest.h"
#include "quant/layer_statistics.h"
#include "quant/observer_config.h"

namespace calib {

// State files: a session's statistics as one portable, checksummed file. STATE_FILE.md has the format.

inline constexpr uint32_t kStateFileVersion = 1;
// No layer's name is longer.
inline constexpr size_t kMaxStateLayerNameBytes = 4096;
// A record is cut before it gets larger, if it has more than one channel.
inline constexpr size_t kStateRecordBytes = size_t{1} << 20;
// No record is larger: a channel of a reference histogram can take that much.
inline constexpr size_t kMaxStateRecordBytes = size_t{16} << 20;
// Of a chunk, when a state file travels.
inline constexpr size_t kMaxStateChunkBytes = size_t{1} << 20;

// One layer on its way into a file.
struct StateLayer {
  std::string name;
  std::shared_ptr<const LayerStatistics> statistics;  // never null; has channels
};

// Writes a state file record by record. Equal headers and layers give equal bytes. Not thread-safe.
class StateFileWriter {
 public:
  // REQUIRES: `layers` in rising name order, each observed as header.config's rules say.
  StateFileWriter(v1::StateHeader header, std::vector<StateLayer> layers);

  // Appends the next piece of the file: one record, of at most kMaxStateRecordBytes. False at the end. A layer is let
  // go once it is written. RESOURCE_EXHAUSTED, naming the layer: a channel needs a larger record.
  absl::StatusOr<bool> Next(std::string* bytes);

 private:
  v1::StateRecord NextLayerRecord();
  absl::Status Append(const v1::StateRecord& record, std::string* bytes);

  v1::StateHeader header_;
  std::deque<StateLayer> layers_;  // not written yet
  size_t next_channel_ = 0;        // of the first of them
  enum { kHeader, kLayers, kDone } next_ = kHeader;
  v1::StateFooter footer_;
  StateDigest digest_;
};

// Reads a state file from pieces of any size, in memory for one layer. Not thread-safe.
//
// Errors are INVALID_ARGUMENT and begin with "byte N: ", where the record that is at fault begins, or what is missing
// should: the file is cut short, damaged, none at all, of a newer version, or goes on behind its end. Nothing is to be
// done with what a file gave before Finish has returned OK. After an error the reader is not to be used.
class StateFileReader {
 public:
  // What is called as the file gives it; an error that one returns ends the reading and is passed on as it is.
  struct Callbacks {
    std::function<absl::Status(const v1::StateHeader& header, const SessionConfig& config)> on_header;
    std::function<absl::Status(std::string name, LayerStatistics statistics)> on_layer;  // whole, in rising name order
  };
  explicit StateFileReader(Callbacks callbacks) : callbacks_(std::move(callbacks)) {}

  absl::Status Add(absl::string_view bytes);
  // There are no more bytes.
  absl::Status Finish();

  // Memory that it takes for what is not given to on_layer yet.
  size_t MemoryBytes() const { return buffer_.capacity() + part_bytes_; }
  // Of a finished file: 32 hexadecimal digits, its size, and what the footer says.
  const std::string& digest() const { return digest_hex_; }
  uint64_t file_bytes() const { return offset_; }
  uint64_t layers() const { return footer_.layers(); }
  uint64_t values() const { return footer_.values(); }

 private:
  absl::Status Error(absl::string_view message) const;
  // Takes what the buffer begins with, if it is whole; false if it isn't.
  absl::StatusOr<bool> TakePreamble();
  absl::StatusOr<bool> TakeRecord();
  absl::Status ReadRecord(absl::string_view payload);
  absl::Status ReadHeader(const v1::StateHeader& header);
  absl::Status ReadLayer(const v1::StateLayer& layer, size_t record_bytes);
  absl::Status ReadFooter(const v1::StateFooter& footer);
  absl::Status CompleteLayer();

  const Callbacks callbacks_;
  std::string buffer_;   // of the preamble or record that is not whole yet
  size_t taken_ = 0;     // of the buffer
  uint64_t offset_ = 0;  // in the file, of what follows in the buffer
  StateDigest digest_;
  enum { kPreamble, kHeader, kLayers, kEnd } next_ = kPreamble;
  SessionConfig config_;
  std::string name_;                      // of the last layer
  std::optional<LayerStatistics> layer_;  // that is not whole yet
  uint32_t channels_ = 0;                 // that it is to have
  size_t part_bytes_ = 0;                 // that it takes
  uint64_t layers_ = 0, values_ = 0;
  v1::StateFooter footer_;
  std::string digest_hex_;
};

}  // namespace calib

#endif  // CALIB_PROTO_CODEC_STATE_FILE_H_
