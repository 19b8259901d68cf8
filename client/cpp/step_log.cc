#include "client/cpp/step_log.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/codec/error.h"

// Contributions, and what becomes of them. step_log_stream.cc has what the server says.
namespace calib::client {
namespace {

bool IsWorldChange(const absl::Status& status) { return GetReason(status) == v1::ERROR_REASON_WORLD_EPOCH_STALE; }

// Whether counts were made on these grids.
bool AreOn(const v1::StepCounts& counts, const v1::StepGrids& grids) {
  if (counts.world_epoch() != grids.world_epoch() || counts.count_size() != grids.grid_size()) return false;
  for (int i = 0; i < grids.grid_size(); ++i) {
    const v1::StepGrid& made_on = counts.count(i).grid();
    const v1::StepGrid& asked_for = grids.grid(i);
    if (made_on.low() != asked_for.low() || made_on.high() != asked_for.high() || made_on.bins() != asked_for.bins()) {
      return false;
    }
  }
  return true;
}

}  // namespace

std::shared_ptr<StepTicket> StepLog::Find(uint64_t step) const {
  const auto found = entries_.find(step);
  return found == entries_.end() ? nullptr : found->second.ticket;
}

void StepLog::Add(uint64_t step, EncodedStep encoded, std::shared_ptr<StepTicket> ticket) {
  v1::StepContribution* const contribution = encoded.request->mutable_step_contribution();
  contribution->set_world_epoch(world_.epoch);
  contribution->set_step(step);
  kept_bytes_ += encoded.bytes;
  ticket->step = step;
  Entry& entry = entries_[step];
  entry.encoded = std::move(encoded);
  entry.ticket = std::move(ticket);
  entry.epoch = world_.epoch;
  due_.insert(step);
  AdvanceNextStep();
}

void StepLog::AdvanceNextStep() {
  for (auto entry = entries_.find(next_step_); entry != entries_.end() && entry->first == next_step_; ++entry) {
    ++next_step_;
  }
}

absl::Status StepLog::news(bool any_error) const {
  if (!news_.ok() && (any_error || IsWorldChange(news_))) return news_;
  if (rank_ < world_.size) return absl::OkStatus();
  return MakeError(v1::ERROR_REASON_RANK_INVALID,
                   absl::StrCat("rank ", rank_, " is not in the world of ", world_.size, " ranks (epoch ", world_.epoch,
                                "): ranks are 0 to ", world_.size - 1),
                   {{"rank", absl::StrCat(rank_)}, {"world_epoch", absl::StrCat(world_.epoch)}});
}

void StepLog::TakeWorldNews() {
  if (IsWorldChange(news_)) news_ = absl::OkStatus();
}

void StepLog::Answer(Entry* entry, const absl::Status& status) {
  if (!status.ok() && !IsWorldChange(news_)) news_ = status;
  entry->ticket->answered = true;
  entry->ticket->status = status;
  on_change_(*entry->ticket);
}

StepLog::Entries::iterator StepLog::Drop(Entries::iterator entry, const absl::Status& status) {
  if (!entry->second.ticket->answered) Answer(&entry->second, status);
  next_step_ = std::min(next_step_, entry->first);
  return Erase(entry);
}

StepLog::Entries::iterator StepLog::Erase(Entries::iterator entry) {
  kept_bytes_ -= entry->second.encoded.bytes;
  due_.erase(entry->first);
  to_count_.erase(entry->first);
  return entries_.erase(entry);
}

void StepLog::ForgetDurable() {
  settled_ = settled_ || durable_ + 1 >= next_step_;
  auto entry = entries_.begin();
  while (entry != entries_.end() && entry->first <= durable_) {
    if (!entry->second.ticket->answered) {
      ++entry;
      continue;
    }
    next_step_ = std::max(next_step_, entry->first + 1);
    entry = Erase(entry);
  }
  AdvanceNextStep();
}

void StepLog::TakeWorld(const StepWorld& world) {
  const bool first = world_.epoch == 0;
  const bool changed = !first && world != world_;
  // The server forgot the world that this rank knew: nothing was given for this one.
  const bool forgotten = changed && world.epoch <= world_.epoch;
  // What was folded without this rank in the world was no matter of its own.
  if (changed && rank_ >= world_.size && rank_ < world.size) next_step_ = std::max(next_step_, folded_ + 1);
  world_ = world;
  uint64_t lowest = next_step_;
  bool dropping = false;
  for (auto entry = entries_.upper_bound(folded_); entry != entries_.end(); ++entry) {
    if (entry->second.epoch == world.epoch && !forgotten) continue;
    lowest = std::min(lowest, entry->first);
    dropping = true;
  }
  if (!changed && !dropping) return;
  const absl::Status stale = MakeError(
      v1::ERROR_REASON_WORLD_EPOCH_STALE,
      absl::StrCat("the world has ", world.size, " ranks now (epoch ", world.epoch,
                   ") and what was given for open steps was dropped: contribute anew from step ", lowest, " on"),
      {{"world_epoch", absl::StrCat(world.epoch)}, {"expected", absl::StrCat(lowest)}});
  news_ = stale;
  for (auto entry = entries_.upper_bound(folded_); entry != entries_.end();) {
    const bool stays = entry->second.epoch == world.epoch && !forgotten;
    entry = stays ? std::next(entry) : Drop(entry, stale);
  }
}

bool StepLog::HasOpen() const {
  return std::any_of(entries_.begin(), entries_.end(),
                     [](const Entries::value_type& entry) { return !entry.second.ticket->answered; });
}

void StepLog::EndAll(const absl::Status& status) {
  OnStreamEnd();
  for (auto& [step, entry] : entries_) {
    if (!entry.ticket->answered) Answer(&entry, status);
  }
  entries_.clear();
  due_.clear();
  to_count_.clear();
  kept_bytes_ = 0;
}

std::optional<StepLog::CountJob> StepLog::TakeCountJob() {
  if (to_count_.empty()) return std::nullopt;
  const Entry& entry = entries_.at(*to_count_.begin());
  to_count_.erase(to_count_.begin());
  return CountJob{entry.grids, entry.encoded.values};
}

void StepLog::AddCounts(const CountJob& job, std::shared_ptr<v1::ObserveRequest> counts) {
  const auto found = entries_.find(job.grids->step());
  // It may have been dropped meanwhile, and contributed anew.
  if (found == entries_.end() || found->second.encoded.values != job.values) return;
  Entry& entry = found->second;
  const size_t replaced = entry.counts == nullptr ? 0 : entry.counts->ByteSizeLong();
  const size_t bytes = counts->ByteSizeLong();
  entry.encoded.bytes += bytes - replaced;
  kept_bytes_ += bytes - replaced;
  entry.counts = std::move(counts);
  if (entry.grids == nullptr || !AreOn(entry.counts->step_counts(), *entry.grids)) return;
  entry.counts_due = true;
  to_count_.erase(found->first);
  due_.insert(found->first);
}

absl::Status StepLog::OnGrids(const v1::StepGrids& grids) {
  const auto found = entries_.find(grids.step());
  if (found == entries_.end()) return absl::OkStatus();
  Entry& entry = found->second;
  if (entry.encoded.request->step_contribution().world_epoch() != grids.world_epoch()) return absl::OkStatus();
  const size_t asked = static_cast<size_t>(grids.grid_size());
  if (asked != entry.encoded.values->size()) {
    return absl::InternalError(absl::StrCat("the server contradicts itself, which is a bug in it: it sent ", asked,
                                            " grids for ", entry.encoded.values->size(),
                                            " reference histograms of step ", grids.step()));
  }
  layers_accepted_ = std::max(layers_accepted_, entry.encoded.layers_used);
  entry.grids = std::make_shared<v1::StepGrids>(grids);
  if (entry.counts != nullptr && AreOn(entry.counts->step_counts(), grids)) {
    entry.counts_due = true;
    due_.insert(found->first);
    return absl::OkStatus();
  }
  to_count_.insert(found->first);
  on_change_(*entry.ticket);
  return absl::OkStatus();
}

}  // namespace calib::client
