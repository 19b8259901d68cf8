#include <utility>

#include "client/cpp/outbox.h"

// What an Outbox sends, in which order.
namespace calib::client {
namespace {

constexpr size_t kMaxRegistrationBytes = size_t{1} << 20;
constexpr size_t kNameOverheadBytes = 3;

}  // namespace

std::shared_ptr<const v1::ObserveRequest> Outbox::NextMessage(bool statistics_due) {
  if (!open_) return nullptr;
  if (auto registration = NextRegistration(); registration != nullptr) return registration;
  if (statistics_due && HasRoundWaiting()) {
    std::swap(pending_, round_);
    round_open_ = true;
    rounds_.Add(++rounds_begun_);
  }
  if (round_open_) return NextStatistics();
  if (!raw_.empty()) return NextRaw();
  return nullptr;
}

bool Outbox::HasRoundWaiting() const {
  return !round_open_ && !pending_.layers.empty() && rounds_.distinct() < static_cast<size_t>(rounds_in_flight_);
}

std::shared_ptr<const v1::ObserveRequest> Outbox::NextRegistration() {
  auto request = std::make_shared<v1::ObserveRequest>();
  v1::RegisterLayers* const registration = request->mutable_register_layers();
  registration->set_first_handle(next_handle_);
  // Handles rise with layer numbers, so a batch in number order is one in handle order.
  for (size_t bytes = 0; layers_registered_ < layers_.size() && bytes < kMaxRegistrationBytes; ++layers_registered_) {
    Layer& layer = layers_[layers_registered_];
    if (!layer.refusal.ok()) continue;
    registration->add_name(layer.name);
    layer.handle = next_handle_++;
    bytes += layer.name.size() + kNameOverheadBytes;
  }
  if (registration->name().empty()) return nullptr;
  return request;
}

std::shared_ptr<const v1::ObserveRequest> Outbox::NextStatistics() {
  Item item;
  item.generation = round_.generation;
  item.round = rounds_begun_;
  item.request = std::make_shared<v1::ObserveRequest>();
  item.layers = writer_.Take([&](uint32_t layer) { return layers_[layer].handle; }, &round_.layers,
                             item.request->mutable_update()->mutable_statistics());
  rounds_.Add(item.round);
  if (round_.layers.empty()) {
    round_ = Pool();
    round_open_ = false;
    rounds_.Remove(rounds_begun_);
  }
  item.bytes = item.request->ByteSizeLong();
  sent_statistics_bytes_ += item.bytes;
  generations_.Add(item.generation);
  return Send(std::move(item));
}

std::shared_ptr<const v1::ObserveRequest> Outbox::NextRaw() {
  Item item = std::move(raw_.front());
  raw_.pop_front();
  const uint32_t handle = layers_[item.layers.front()].handle;
  v1::Update* const update = item.request->mutable_update();
  if (update->has_tensor()) {
    update->mutable_tensor()->set_layer(handle);
  } else {
    update->mutable_statistics()->set_layer(0, handle);
  }
  return Send(std::move(item));
}

std::shared_ptr<const v1::ObserveRequest> Outbox::Send(Item item) {
  item.unit = ++sent_unit_;
  item.request->mutable_update()->set_first(item.unit);
  item.request->mutable_update()->set_last(item.unit);
  std::shared_ptr<const v1::ObserveRequest> request = item.request;
  sent_items_.push_back(std::move(item));
  return request;
}

bool Outbox::IsApplied(uint64_t mark) const {
  if (pending_.generation <= mark || round_.generation <= mark) return false;
  if (!raw_.empty() && raw_.front().generation <= mark) return false;
  for (auto item = sent_items_.rbegin(); item != sent_items_.rend() && item->unit > applied_; ++item) {
    if (item->generation <= mark) return false;
  }
  return true;
}

bool Outbox::IsDurable(uint64_t mark) const {
  return pending_.generation > mark && round_.generation > mark &&
         (generations_.empty() || generations_.least() > mark);
}

bool Outbox::WaitsForDurability(bool statistics_due) const {
  const bool has_data_to_send = !raw_.empty() || round_open_ || (statistics_due && HasRoundWaiting());
  return !has_data_to_send && durable_ < applied_ && applied_ == sent_unit_;
}

size_t Outbox::TotalBytes() const {
  size_t bytes = raw_bytes_ + sent_statistics_bytes_;
  for (const Pool* const pool : {&pending_, &round_}) {
    for (const auto& [layer, statistics] : pool->layers) bytes += statistics.MemoryBytes();
  }
  return bytes;
}

}  // namespace calib::client
