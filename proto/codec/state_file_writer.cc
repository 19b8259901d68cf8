#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/codec/state_file.h"
#include "proto/codec/state_file_format.h"
#include "proto/codec/statistics_codec.h"

namespace calib {
namespace {

// Channels [begin, end) of a layer as a batch.
v1::StatisticsBatch EncodeChannels(const LayerStatistics& statistics, size_t begin, size_t end) {
  v1::StatisticsBatch batch;
  StatisticsWriter writer;
  if (begin == 0 && end == statistics.channels().size()) {
    writer.Add(0, statistics, &batch);
    return batch;
  }
  LayerStatistics part(statistics.config());
  const auto first = statistics.channels().begin();
  part.mutable_channels().assign(first + static_cast<ptrdiff_t>(begin), first + static_cast<ptrdiff_t>(end));
  writer.Add(0, part, &batch);
  return batch;
}

}  // namespace

StateFileWriter::StateFileWriter(v1::StateHeader header, std::vector<StateLayer> layers)
    : header_(std::move(header)),
      layers_(std::make_move_iterator(layers.begin()), std::make_move_iterator(layers.end())) {
  footer_.set_layers(layers_.size());
  for (const StateLayer& layer : layers_)
    footer_.set_values(state_file::AddValues(footer_.values(), *layer.statistics));
}

absl::StatusOr<bool> StateFileWriter::Next(std::string* bytes) {
  v1::StateRecord record;
  std::string preamble;
  if (next_ == kDone) return false;
  if (next_ == kHeader) {
    preamble.assign(state_file::kMagic.data(), state_file::kMagic.size());
    state_file::AppendLittleEndian(kStateFileVersion, &preamble);
    digest_.Add(preamble);
    bytes->append(preamble);
    *record.mutable_header() = std::move(header_);
    next_ = kLayers;
  } else if (!layers_.empty()) {
    record = NextLayerRecord();
  } else {
    *record.mutable_footer() = footer_;
    record.mutable_footer()->set_digest(digest_.Bytes());
    next_ = kDone;
  }
  const absl::Status appended = Append(record, bytes);
  if (!appended.ok()) return appended;
  return true;
}

v1::StateRecord StateFileWriter::NextLayerRecord() {
  const StateLayer& layer = layers_.front();
  const size_t channels = layer.statistics->channels().size();
  // As many channels as fit, by what each takes alone: together they take less.
  size_t end = next_channel_ + 1;
  if (channels > 1) {
    size_t bytes = EncodeChannels(*layer.statistics, next_channel_, end).ByteSizeLong();
    for (; end < channels; ++end) {
      bytes += EncodeChannels(*layer.statistics, end, end + 1).ByteSizeLong();
      if (bytes > kStateRecordBytes) break;
    }
  }
  v1::StateRecord record;
  v1::StateLayer* const message = record.mutable_layer();
  message->set_layer(layer.name);
  message->set_channels(static_cast<uint32_t>(channels));
  *message->mutable_statistics() = EncodeChannels(*layer.statistics, next_channel_, end);
  next_channel_ = end;
  if (end == channels) {
    layers_.pop_front();
    next_channel_ = 0;
  }
  return record;
}

absl::Status StateFileWriter::Append(const v1::StateRecord& record, std::string* bytes) {
  const size_t size = record.ByteSizeLong();
  if (size > kMaxStateRecordBytes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        record.has_layer() ? absl::StrCat("a channel of layer \"", record.layer().layer(), "\"") : "header", " takes ",
        size, " bytes, and a record of a state file at most ", kMaxStateRecordBytes));
  }
  const size_t begin = bytes->size();
  state_file::AppendLittleEndian(static_cast<uint32_t>(size), bytes);
  record.AppendToString(bytes);
  state_file::AppendLittleEndian(StateChecksum(absl::string_view(*bytes).substr(begin)), bytes);
  digest_.Add(absl::string_view(*bytes).substr(begin));
  return absl::OkStatus();
}

}  // namespace calib
