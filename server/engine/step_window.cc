#include "server/engine/step_window.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/codec/error.h"

namespace calib::server {
namespace {

bool Awaited(const StepContribution& contribution) {
  return contribution.has_references && !contribution.counts.has_value();
}

// The ranges that a step's grids were made of changed.
void MakeGridsAnew(OpenStep* open) {
  open->stage = OpenStep::Stage::kContributing;
  open->partial = false;
  open->regridded = true;
  open->grids.clear();
  open->passed_over.clear();
  for (const auto& [rank, contribution] : open->ranks) contribution->counts.reset();
}

}  // namespace

bool OpenStep::IsAwaited() const {
  if (stage == Stage::kContributing) return !AllContributed();
  return std::any_of(ranks.begin(), ranks.end(), [](const auto& entry) { return Awaited(*entry.second); });
}

std::vector<uint32_t> OpenStep::Missing() const {
  std::vector<uint32_t> missing;
  if (stage == Stage::kCounting) {
    for (const auto& [rank, contribution] : ranks) {
      if (Awaited(*contribution)) missing.push_back(rank);
    }
    return missing;
  }
  auto next = ranks.begin();
  for (uint32_t rank = 0; rank < world_size; ++rank) {
    if (next != ranks.end() && next->first == rank) {
      ++next;
    } else {
      missing.push_back(rank);
    }
  }
  return missing;
}

ReferenceGrid OpenStep::GridOf(const Layer* layer) const {
  const auto found = grids.find(layer);
  return found == grids.end() ? ReferenceGrid{} : found->second;
}

StepWindow::StepWindow(const SynchronousOptions& options, StepsRecord record)
    : options_(options), record_(std::move(record)) {
  if (record_.world_epoch != 0) return;
  record_.world_epoch = 1;
  record_.world_size = options.world_size;
}

absl::Status StepWindow::CheckRank(uint32_t rank) const {
  if (rank < record_.world_size) return absl::OkStatus();
  return MakeError(v1::ERROR_REASON_RANK_INVALID,
                   absl::StrCat("there is no rank ", rank, ": the world has ", record_.world_size,
                                " ranks, from 0 on; open the stream with one of them, or enlarge the world first"),
                   {{"rank", absl::StrCat(rank)}});
}

absl::StatusOr<StepWindow::Verdict> StepWindow::Check(uint32_t rank, uint64_t world_epoch, uint64_t step) const {
  if (absl::Status status = CheckRank(rank); !status.ok()) return status;
  const uint64_t lowest = record_.folded_step + 1;
  // What is folded stays, whatever the world: its contributors that the world still has are answered in a later one
  // too.
  if (step > 0 && step < lowest) {
    const std::shared_ptr<const FoldedStep> folded = FindFolded(step);
    if (folded != nullptr) {
      return rank < folded->ranks.size() && folded->ranks[rank] ? Verdict::kCounted : Verdict::kLate;
    }
  }
  if (world_epoch != record_.world_epoch) {
    return MakeError(v1::ERROR_REASON_WORLD_EPOCH_STALE,
                     absl::StrCat("the contribution is of world epoch ", world_epoch, ", and the epoch is ",
                                  record_.world_epoch, "; take up the new world and contribute to step ", lowest),
                     {{"world_epoch", absl::StrCat(record_.world_epoch)}, {"expected", absl::StrCat(lowest)}});
  }
  if (step < lowest || step - lowest >= options_.window) {
    return MakeError(
        v1::ERROR_REASON_STEP_OUT_OF_WINDOW,
        absl::StrCat("step ", step, " of rank ", rank, " is not open: steps ", lowest, " to ",
                     lowest + options_.window - 1, " are; ",
                     step < lowest ? "it was folded, and its result is not kept any more" : "wait for results first"),
        {{"step", absl::StrCat(step)}, {"expected", absl::StrCat(lowest)}});
  }
  const size_t place = step - lowest;
  const bool again =
      place < open_.size() && (open_[place].ranks.count(rank) != 0 || open_[place].left_out.count(rank) != 0);
  return again ? Verdict::kAgain : Verdict::kNew;
}

void StepWindow::Take(uint32_t rank, uint64_t step, std::shared_ptr<StepContribution> contribution,
                      absl::Duration now) {
  const size_t place = step - (record_.folded_step + 1);
  while (open_.size() <= place) {
    OpenStep& added = open_.emplace_back();
    added.step = record_.folded_step + open_.size();
    added.world_size = record_.world_size;
  }
  OpenStep& open = open_[place];
  if (!open.since.has_value()) open.since = now;
  std::shared_ptr<StepContribution>& slot = open.ranks[rank];
  bytes_ += contribution->bytes;
  const bool same = slot != nullptr && slot->SameData(*contribution);
  if (same) {
    bytes_ += slot->bytes - contribution->bytes;
    contribution->bytes = slot->bytes;
    contribution->counts = std::move(slot->counts);
  }
  if (const auto left_out = open.left_out.find(rank); left_out != open.left_out.end()) {
    bytes_ -= left_out->second->bytes;
    open.left_out.erase(left_out);
  }
  if (slot != nullptr) bytes_ -= slot->bytes;
  slot = std::move(contribution);
  if (open.stage == OpenStep::Stage::kContributing || same) return;
  MakeGridsAnew(&open);
  // All count anew, so those that were left out may yet count in time; they will not contribute again by themselves.
  for (auto& [other, contributed] : std::exchange(open.left_out, {})) {
    open.ranks[other] = std::move(contributed);
  }
}

void StepWindow::LeaveOutUncounted(OpenStep* open) {
  for (const uint32_t rank : open->Missing()) {
    const auto found = open->ranks.find(rank);
    open->left_out[rank] = std::move(found->second);
    open->ranks.erase(found);
  }
  MakeGridsAnew(open);
}

OpenStep* StepWindow::Find(uint64_t step) {
  const uint64_t lowest = record_.folded_step + 1;
  if (step < lowest || step - lowest >= open_.size()) return nullptr;
  return &open_[step - lowest];
}

OpenStep* StepWindow::Lowest() { return open_.empty() ? nullptr : &open_.front(); }

std::shared_ptr<const FoldedStep> StepWindow::FindFolded(uint64_t step) const {
  const auto& kept = record_.kept;
  if (kept.empty() || step < kept.front()->step || step > kept.back()->step) return nullptr;
  return kept[step - kept.front()->step];
}

OpenStep StepWindow::PopFolded(std::shared_ptr<const FoldedStep> folded) {
  OpenStep open = std::move(open_.front());
  open_.pop_front();
  for (const auto* ranks : {&open.ranks, &open.left_out}) {
    for (const auto& [rank, contribution] : *ranks) bytes_ -= contribution->bytes;
  }
  ++record_.folded_step;
  record_.kept.push_back(std::move(folded));
  if (record_.kept.size() > options_.window) record_.kept.pop_front();
  return open;
}

std::deque<OpenStep> StepWindow::DropOpen() {
  bytes_ = 0;
  return std::exchange(open_, {});
}

void StepWindow::SetWorld(uint32_t size) {
  ++record_.world_epoch;
  record_.world_size = size;
}

void StepWindow::AddBytes(StepContribution* contribution, size_t bytes) {
  contribution->bytes += bytes;
  bytes_ += bytes;
}

std::optional<absl::Duration> StepWindow::OpenSince() const {
  // Ranks contribute in the order of the steps, but a lower step may have lost what it had, or be skipped by all.
  for (const OpenStep& open : open_) {
    if (open.since.has_value()) return open.since;
  }
  return std::nullopt;
}

std::optional<absl::Duration> StepWindow::Deadline() const {
  const std::optional<absl::Duration> since = OpenSince();
  if (options_.straggler_policy == StragglerPolicy::kWait || !since.has_value()) return std::nullopt;
  return *since + options_.deadline;
}

uint32_t StepWindow::open_steps() const {
  return static_cast<uint32_t>(
      std::count_if(open_.begin(), open_.end(), [](const OpenStep& open) { return !open.ranks.empty(); }));
}

}  // namespace calib::server
