#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "proto/codec/config_codec.h"
#include "proto/codec/state_codec.h"
#include "proto/codec/state_file.h"
#include "proto/codec/state_file_format.h"

namespace calib {
namespace {

std::string QuotedLayer(absl::string_view name) {
  return absl::StrCat("layer \"", absl::Utf8SafeCHexEscape(name.substr(0, 128)), "\"");
}

}  // namespace

absl::Status StateFileReader::Error(absl::string_view message) const {
  return absl::InvalidArgumentError(absl::StrCat("byte ", offset_, ": ", message));
}

absl::Status StateFileReader::Add(absl::string_view bytes) {
  // In pieces, so that what was taken is let go before the buffer grows.
  for (size_t at = 0; at < bytes.size();) {
    const absl::string_view piece = bytes.substr(at, kStateRecordBytes);
    at += piece.size();
    buffer_.append(piece.data(), piece.size());
    while (true) {
      const absl::StatusOr<bool> taken = next_ == kPreamble ? TakePreamble() : TakeRecord();
      if (!taken.ok()) return taken.status();
      if (!*taken) break;
    }
    buffer_.erase(0, std::exchange(taken_, 0));
    if (buffer_.empty() && buffer_.capacity() > 2 * kStateRecordBytes) std::string().swap(buffer_);  // a large record's
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> StateFileReader::TakePreamble() {
  const absl::string_view bytes = buffer_;
  const size_t known = std::min(bytes.size(), state_file::kMagic.size());
  if (bytes.substr(0, known) != state_file::kMagic.substr(0, known)) {
    return Error("this is no state file: it does not begin as one");
  }
  if (bytes.size() < state_file::kPreambleBytes) return false;
  const auto version = state_file::ReadLittleEndian<uint32_t>(bytes.substr(known));
  offset_ = known;
  if (version != kStateFileVersion) {
    return Error(absl::StrCat("the state file has version ", version, ", and this program reads version ",
                              kStateFileVersion, "; it is damaged, or was written by a newer one"));
  }
  digest_.Add(bytes.substr(0, state_file::kPreambleBytes));
  taken_ = offset_ = state_file::kPreambleBytes;
  next_ = kHeader;
  return true;
}

absl::StatusOr<bool> StateFileReader::TakeRecord() {
  const absl::string_view bytes = absl::string_view(buffer_).substr(taken_);
  if (bytes.empty()) return false;
  if (next_ == kEnd) return Error("the state file goes on behind its end; it is damaged");
  if (bytes.size() < state_file::kLengthBytes) return false;
  const auto length = state_file::ReadLittleEndian<uint32_t>(bytes);
  if (length > kMaxStateRecordBytes) {
    return Error(absl::StrCat("a record would have ", length, " bytes, and at most ", kMaxStateRecordBytes,
                              " are possible; the state file is damaged"));
  }
  const size_t end = state_file::kLengthBytes + length;
  if (bytes.size() < end + state_file::kChecksumBytes) return false;
  const absl::string_view record = bytes.substr(0, end);
  if (state_file::ReadLittleEndian<uint64_t>(bytes.substr(end)) != StateChecksum(record)) {
    return Error("the record's checksum is not that of its bytes; the state file is damaged");
  }
  if (const absl::Status read = ReadRecord(record.substr(state_file::kLengthBytes)); !read.ok()) return read;
  digest_.Add(bytes.substr(0, end + state_file::kChecksumBytes));
  taken_ += end + state_file::kChecksumBytes;
  offset_ += end + state_file::kChecksumBytes;
  return true;
}

absl::Status StateFileReader::ReadRecord(absl::string_view payload) {
  v1::StateRecord record;
  if (!record.ParseFromArray(payload.data(), static_cast<int>(payload.size()))) {
    return Error("the record is no StateRecord message");
  }
  switch (record.content_case()) {
    case v1::StateRecord::kHeader:
      return ReadHeader(record.header());
    case v1::StateRecord::kLayer:
      return ReadLayer(record.layer(), payload.size());
    case v1::StateRecord::kFooter:
      return ReadFooter(record.footer());
    default:
      return Error("the record is neither header nor layer nor footer");
  }
}

absl::Status StateFileReader::ReadHeader(const v1::StateHeader& header) {
  if (next_ != kHeader) return Error("a second header");
  absl::StatusOr<SessionConfig> config = DecodeSessionConfig(header.config());
  if (!config.ok()) return Error(config.status().message());
  config_ = *std::move(config);
  bool own = false;
  for (int i = 0; i < header.lineage_size(); ++i) {
    if (i > 0 && header.lineage(i) <= header.lineage(i - 1)) return Error("the header's lineage does not rise");
    own |= header.lineage(i) == header.uid();
  }
  if (!own) return Error("the header's lineage lacks the session's own uid");
  next_ = kLayers;
  return callbacks_.on_header(header, config_);
}

absl::Status StateFileReader::ReadLayer(const v1::StateLayer& message, size_t record_bytes) {
  if (next_ != kLayers) return Error("a layer before the header");
  const auto refuse = [&](absl::string_view what) { return Error(absl::StrCat(QuotedLayer(message.layer()), what)); };
  if (!layer_.has_value()) {
    if (message.layer() <= name_) return refuse(": names do not rise");
    if (message.layer().size() > kMaxStateLayerNameBytes) {
      return refuse(absl::StrCat(" has a name of ", message.layer().size(), " bytes, and at most ",
                                 kMaxStateLayerNameBytes, " are possible"));
    }
    const std::optional<ObserverConfig> observer = config_.rules.Match(message.layer());
    if (!observer.has_value()) return refuse(" is skipped by the rules of the file's own session");
    name_ = message.layer();
    channels_ = message.channels();
    layer_.emplace(*observer);
  } else if (message.layer() != name_ || message.channels() != channels_) {
    return refuse(absl::StrCat(" comes before all channels of ", QuotedLayer(name_)));
  }
  // Before it is decoded: so what a record becomes in memory is bounded.
  if (record_bytes > kStateRecordBytes + kMaxStateRecordBytes / 64 && message.statistics().count_size() > 1) {
    return refuse(" has a record of several channels that is too large");
  }
  absl::StatusOr<LayerStatistics> part = DecodeLayerState(layer_->config(), message.statistics());
  if (!part.ok()) return refuse(absl::StrCat(": ", part.status().message()));
  std::vector<ChannelStatistics>& channels = layer_->mutable_channels();
  std::vector<ChannelStatistics>& more = part->mutable_channels();
  if (more.empty() || more.size() > channels_ - channels.size()) {
    return refuse(absl::StrCat(" has ", channels_, " channels, and a record of it ", more.size()));
  }
  if (!channels.empty() && (channels.front().learned.has_value() != more.front().learned.has_value() ||
                            channels.front().passive.has_value() != more.front().passive.has_value())) {
    return refuse(" has parameters in some of its records alone");
  }
  part_bytes_ += part->MemoryBytes();
  if (channels.empty()) {
    channels = std::move(more);
  } else {
    channels.insert(channels.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
  }
  return channels.size() == channels_ ? CompleteLayer() : absl::OkStatus();
}

absl::Status StateFileReader::CompleteLayer() {
  ++layers_;
  values_ = state_file::AddValues(values_, *layer_);
  LayerStatistics layer = *std::move(layer_);
  layer_.reset();
  part_bytes_ = 0;
  return callbacks_.on_layer(name_, std::move(layer));
}

absl::Status StateFileReader::ReadFooter(const v1::StateFooter& footer) {
  if (next_ != kLayers) return Error("a footer before the header");
  if (layer_.has_value()) return Error(absl::StrCat("the end comes before all channels of ", QuotedLayer(name_)));
  if (footer.layers() != layers_ || footer.values() != values_) {
    return Error(absl::StrCat("the footer says ", footer.layers(), " layers and ", footer.values(),
                              " values; there are ", layers_, " and ", values_));
  }
  if (footer.digest() != digest_.Bytes()) return Error("the file's digest is not that of its bytes; it is damaged");
  footer_ = footer;
  digest_hex_ = absl::BytesToHexString(footer.digest());
  next_ = kEnd;
  return absl::OkStatus();
}

absl::Status StateFileReader::Finish() {
  if (next_ == kEnd) return absl::OkStatus();
  offset_ += buffer_.size();
  return Error("the state file ends here, before its footer; it was cut short");
}

}  // namespace calib
