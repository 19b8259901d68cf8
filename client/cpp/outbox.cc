#include "client/cpp/outbox.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cpp/layer_name.h"
#include "proto/codec/error.h"

namespace calib::client {
namespace {

// So that a step fits into one message, which can't be split.
constexpr size_t kMaxStepBins = kMaxBatchBytes / sizeof(double);

uint64_t ChunkValues(const v1::TensorChunk& chunk) {
  return chunk.data().size() / (chunk.data_type() == v1::DATA_TYPE_FLOAT32 ? 4 : 2);
}

uint64_t BatchValues(const v1::StatisticsBatch& batch) {
  uint64_t values = 0;
  for (const auto* const column :
       {&batch.count(), &batch.nan(), &batch.positive_infinity(), &batch.negative_infinity()}) {
    for (const uint64_t count : *column) values += count;
  }
  return values;
}

uint64_t ItemValues(const v1::Update& update) {
  return update.has_tensor() ? ChunkValues(update.tensor()) : BatchValues(update.statistics());
}

absl::Status Contradiction(absl::string_view what) {
  return absl::InternalError(absl::StrCat("the server contradicts itself, which is a bug in it: ", what));
}

std::optional<std::string> LayerNamed(const absl::Status& refusal) {
  const std::optional<v1::ErrorInfo> info = GetErrorInfo(refusal);
  if (!info.has_value()) return std::nullopt;
  const auto found = info->metadata().find("layer");
  if (found == info->metadata().end()) return std::nullopt;
  return found->second;
}

}  // namespace

void Outbox::Pool::Merge(uint32_t layer, const LayerStatistics& statistics, uint64_t from_generation) {
  layers.try_emplace(layer, statistics.config()).first->second.Merge(statistics);
  generation = std::min(generation, from_generation);
}

uint64_t Outbox::Pool::Drop(uint32_t layer) {
  const auto found = layers.find(layer);
  if (found == layers.end()) return 0;
  const uint64_t values = CountValues(found->second);
  layers.erase(found);
  if (layers.empty()) generation = kNone;
  return values;
}

absl::StatusOr<uint32_t> Outbox::Admit(absl::string_view name, const ObserverConfig& observer, size_t channels,
                                       uint64_t values) {
  const auto found = layer_numbers_.find(name);
  if (found == layer_numbers_.end()) {
    if (absl::Status status = CheckLayerName(name); !status.ok()) return status;
    const uint32_t number = static_cast<uint32_t>(layers_.size());
    layer_numbers_.emplace(name, number);
    layers_.push_back({std::string(name), observer, channels, values});
    return number;
  }
  Layer& layer = layers_[found->second];
  if (!layer.refusal.ok()) return layer.refusal;
  if (channels != layer.channels) {
    return MakeError(v1::ERROR_REASON_CHANNEL_COUNT_CHANGED,
                     absl::StrCat("layer \"", name, "\" has ", layer.channels, " channels and was now given ", channels,
                                  "; a layer's channel count cannot change, use another layer name"),
                     {{"layer", layer.name}});
  }
  if (values > std::numeric_limits<uint64_t>::max() - layer.values) {
    return MakeError(v1::ERROR_REASON_COUNT_OVERFLOW,
                     absl::StrCat("layer \"", name, "\" would count more than 2^64 - 1 values"),
                     {{"layer", layer.name}});
  }
  layer.values += values;
  return found->second;
}

absl::Status Outbox::Add(absl::string_view layer, const LayerStatistics& statistics) {
  if (statistics.empty()) return absl::OkStatus();
  const absl::StatusOr<uint32_t> number =
      Admit(layer, statistics.config(), statistics.channels().size(), CountValues(statistics));
  if (!number.ok()) return number.status();
  pending_.Merge(*number, statistics, generation_);
  return absl::OkStatus();
}

absl::Status Outbox::AddRaw(absl::string_view layer, const ObserverConfig& observer, size_t channels,
                            v1::TensorChunk chunk) {
  const absl::StatusOr<uint32_t> number = Admit(layer, observer, channels, ChunkValues(chunk));
  if (!number.ok()) return number.status();
  auto request = std::make_shared<v1::ObserveRequest>();
  *request->mutable_update()->mutable_tensor() = std::move(chunk);
  AddToLine(*number, std::move(request));
  return absl::OkStatus();
}

absl::Status Outbox::AddStep(absl::string_view layer, const ObserverConfig& observer, const Step& step) {
  if (step.ranges.empty()) return absl::OkStatus();
  if (step.counts.size() > kMaxStepBins) {
    return MakeError(
        v1::ERROR_REASON_REFERENCE_TOO_LARGE,
        absl::StrCat("layer \"", layer, "\": the step has ", step.counts.size(), " bins, a message takes up to ",
                     kMaxStepBins, "; leave the outlier out, or begin with fewer bins"),
        {{"layer", std::string(layer)}});
  }
  uint64_t values = 0;
  for (const Range& range : step.ranges) values += range.values();
  const absl::StatusOr<uint32_t> number = Admit(layer, observer, step.ranges.size(), values);
  if (!number.ok()) return number.status();
  auto request = std::make_shared<v1::ObserveRequest>();
  StatisticsWriter().AddStep(0, step, observer.kind == ObserverKind::kReferenceHistogram,
                             request->mutable_update()->mutable_statistics());
  AddToLine(*number, std::move(request));
  return absl::OkStatus();
}

void Outbox::AddToLine(uint32_t layer, std::shared_ptr<v1::ObserveRequest> request) {
  Item item;
  item.generation = generation_;
  item.layers = {layer};
  item.request = std::move(request);
  item.bytes = item.request->ByteSizeLong();
  raw_bytes_ += item.bytes;
  generations_.Add(item.generation);
  raw_.push_back(std::move(item));
}

absl::Status Outbox::OnWelcome(const v1::Welcome& welcome) {
  if (welcome.durable() > welcome.applied()) {
    return Contradiction(absl::StrCat("Welcome says applied ", welcome.applied(), " and durable ", welcome.durable()));
  }
  if (!welcomed_) {
    // An earlier process of this worker may have come this far.
    welcomed_ = true;
    durable_ = welcome.durable();
    sent_unit_ = welcome.applied();
  }
  if (welcome.durable() < durable_) {
    return absl::DataLossError(absl::StrCat("the server lost units ", welcome.durable() + 1, " to ", durable_,
                                            " of this worker, which it had called durable; the session's results "
                                            "lack them: collect again in a new session"));
  }
  if (welcome.applied() > sent_unit_) {
    return MakeError(v1::ERROR_REASON_WORKER_FENCED,
                     absl::StrCat("the server has applied unit ", welcome.applied(), " of this worker, which has sent ",
                                  sent_unit_, "; another process uses its worker id: give each its own"));
  }
  applied_ = welcome.applied();
  ForgetDurable(welcome.durable());
  if (absl::Status status = Requeue(); !status.ok()) return status;
  sent_unit_ = applied_;
  layers_registered_ = 0;
  next_handle_ = 0;
  open_ = true;
  return absl::OkStatus();
}

absl::Status Outbox::OnAck(const v1::Ack& ack) {
  if (ack.durable() > ack.applied() || ack.applied() > sent_unit_ || ack.applied() < applied_ ||
      ack.durable() < durable_) {
    return Contradiction(absl::StrCat("Ack says applied ", ack.applied(), " and durable ", ack.durable(),
                                      " after applied ", applied_, " and durable ", durable_, ", with ", sent_unit_,
                                      " sent"));
  }
  applied_ = ack.applied();
  ForgetDurable(ack.durable());
  return absl::OkStatus();
}

RefusalMeaning Outbox::OnRefusal(const v1::Refusal& refusal) {
  open_ = false;
  const absl::Status status = FromRefusal(refusal);
  const RefusalMeaning meaning = MeaningOf(status);
  if (meaning != RefusalMeaning::kDataRefused) return meaning;

  std::optional<uint32_t> layer;
  if (const std::optional<std::string> name = LayerNamed(status); name.has_value()) {
    if (const auto found = layer_numbers_.find(*name); found != layer_numbers_.end()) layer = found->second;
  }
  if (refusal.first() == 0) {
    if (!layer.has_value()) return RefusalMeaning::kWorkerEnds;  // no telling which names to go on with
    Refuse(*layer, status);
    return meaning;
  }
  const auto item = std::find_if(sent_items_.begin(), sent_items_.end(),
                                 [&](const Item& sent) { return sent.unit == refusal.first(); });
  if (item == sent_items_.end() || item->unit <= applied_) return RefusalMeaning::kWorkerEnds;
  if (item->layers.size() == 1) layer = item->layers.front();
  if (layer.has_value() && std::find(item->layers.begin(), item->layers.end(), *layer) != item->layers.end()) {
    // The item's other layers come back to pending with the next Welcome.
    Refuse(*layer, status);
    return meaning;
  }
  if (refusal_.ok()) refusal_ = status;
  values_refused_ += ItemValues(item->request->update());
  Release(*item);
  sent_items_.erase(item);
  return meaning;
}

void Outbox::Refuse(uint32_t layer, const absl::Status& refusal) {
  if (refusal_.ok()) refusal_ = refusal;
  layers_[layer].refusal = refusal;
  values_refused_ += pending_.Drop(layer) + round_.Drop(layer);
  std::deque<Item> kept;
  for (Item& item : raw_) {
    if (item.layers.front() != layer) {
      kept.push_back(std::move(item));
      continue;
    }
    values_refused_ += ItemValues(item.request->update());
    Release(item);
  }
  raw_ = std::move(kept);
}

void Outbox::Release(const Item& item) {
  generations_.Remove(item.generation);
  if (item.round == 0) {
    raw_bytes_ -= item.bytes;
  } else {
    rounds_.Remove(item.round);
    sent_statistics_bytes_ -= item.bytes;
  }
}

void Outbox::ForgetDurable(uint64_t durable) {
  durable_ = durable;
  while (!sent_items_.empty() && sent_items_.front().unit <= durable_) {
    Release(sent_items_.front());
    sent_items_.pop_front();
  }
}

absl::Status Outbox::Requeue() {
  while (!sent_items_.empty() && sent_items_.back().unit > applied_) {
    Item item = std::move(sent_items_.back());
    sent_items_.pop_back();
    Release(item);
    if (item.round != 0) {
      if (absl::Status status = RequeueStatistics(item); !status.ok()) return status;
    } else if (layers_[item.layers.front()].refusal.ok()) {
      raw_bytes_ += item.bytes;
      generations_.Add(item.generation);
      raw_.push_front(std::move(item));
    } else {
      values_refused_ += ItemValues(item.request->update());
    }
  }
  if (!round_.layers.empty()) {
    for (const auto& [layer, statistics] : round_.layers) pending_.Merge(layer, statistics, round_.generation);
    round_ = Pool();
  }
  // The round is over, whether all of it was sent or not.
  if (round_open_) rounds_.Remove(rounds_begun_);
  round_open_ = false;
  return absl::OkStatus();
}

absl::Status Outbox::RequeueStatistics(const Item& item) {
  v1::StatisticsBatch* const batch = item.request->mutable_update()->mutable_statistics();
  for (size_t i = 0; i < item.layers.size(); ++i) batch->set_layer(static_cast<int>(i), item.layers[i]);
  const auto kind_of = [&](uint32_t layer) { return layers_[layer].observer.kind; };
  if (absl::Status status = reader_.Decode(*batch, kind_of); !status.ok()) return status;
  for (const LayerView& rows : reader_.layers()) {
    const Layer& layer = layers_[rows.handle];
    if (!layer.refusal.ok()) {
      for (const RowView& row : rows.rows) values_refused_ += row.range.values();
      continue;
    }
    LayerStatistics statistics(layer.observer);
    MergeRows(rows, &statistics);
    pending_.Merge(rows.handle, statistics, item.generation);
  }
  return absl::OkStatus();
}

}  // namespace calib::client
