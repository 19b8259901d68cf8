#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "proto/codec/error.h"
#include "quant/learned_observer.h"
#include "server/engine/session.h"
#include "server/engine/step_messages.h"
#include "server/engine/validate.h"

// Synchronous steps: contributions, deadlines, worlds.
namespace calib::server {
namespace {

// Ranks that a message for people names.
constexpr size_t kNamedRanks = 16;

std::string NameRanks(const std::vector<uint32_t>& ranks) {
  std::vector<uint32_t> named = ranks;
  named.resize(std::min(named.size(), kNamedRanks));
  return absl::StrCat(ranks.size() == 1 ? "rank " : "ranks ", absl::StrJoin(named, ", "),
                      ranks.size() > named.size() ? absl::StrCat(" and ", ranks.size() - named.size(), " more") : "");
}

// `lowest`: the step is the lowest open one. An earlier one may yet give the layer a value, as when a server started
// again and the ranks send both once more.
// CHANNEL_COUNT_CHANGED, LEARNED_NOT_INITIALIZED, STATISTICS_INCONSISTENT.
absl::Status CheckRankGradients(const LayerBinding& binding, const LayerStatistics& statistics,
                                const StepContribution::Gradients& gradients, bool lowest) {
  const auto refuse = [&](v1::ErrorReason reason, absl::string_view message) {
    return MakeError(reason, absl::StrCat("layer ", Quoted(binding.name), ": ", message), {{"layer", binding.name}});
  };
  if (absl::Status status = statistics.CheckChannelCount(gradients.sums.size()); !status.ok()) {
    return refuse(v1::ERROR_REASON_CHANNEL_COUNT_CHANGED, status.message());
  }
  if (lowest || IsInitialized(statistics)) {
    absl::Status status = CheckGradients(statistics, gradients.sums, gradients.elements);
    if (status.ok()) return status;
    return refuse(status.code() == absl::StatusCode::kFailedPrecondition ? v1::ERROR_REASON_LEARNED_NOT_INITIALIZED
                                                                         : v1::ERROR_REASON_STATISTICS_INCONSISTENT,
                  status.message());
  }
  for (const LearnedGradient& gradient : gradients.sums) {
    if (std::isfinite(static_cast<float>(gradient.scale)) && std::isfinite(static_cast<float>(gradient.zero_point))) {
      continue;
    }
    return refuse(
        v1::ERROR_REASON_STATISTICS_INCONSISTENT,
        absl::StrCat("the gradient ", gradient.scale, ", ", gradient.zero_point, " is not finite in float32"));
  }
  if (gradients.elements > 0 || binding.observer->learned->plain_gradients) return absl::OkStatus();
  return refuse(v1::ERROR_REASON_STATISTICS_INCONSISTENT, "gradients of no elements; leave the layer out");
}

// As AnsweredLayers, before the layers are looked up.
std::vector<AnsweredLayer> AnsweredLayersOf(const StepUpdate& update) {
  std::vector<AnsweredLayer> layers;
  const std::vector<StepContribution::Observed>& observed = update.contribution.observed;
  for (size_t i = 0; i < update.bindings.size(); ++i) {
    layers.push_back({update.bindings[i]->name, i < observed.size() ? observed[i].ranges.size() : 0});
  }
  return layers;
}

// The counts of all layers with a reference histogram. REFERENCE_GRID_MISMATCH, HISTOGRAM_INVALID.
absl::StatusOr<std::vector<std::vector<uint64_t>>> CheckCounts(const OpenStep& open,
                                                               const StepContribution& contribution,
                                                               const v1::StepCounts& counts) {
  std::vector<std::vector<uint64_t>> checked;
  for (const StepContribution::Observed& observed : contribution.observed) {
    if (observed.layer->statistics->config().kind != ObserverKind::kReferenceHistogram) continue;
    const auto refuse = [&](v1::ErrorReason reason, absl::string_view what) {
      return MakeError(reason, absl::StrCat("layer ", Quoted(observed.layer->name), ": ", what),
                       {{"layer", observed.layer->name}, {"step", absl::StrCat(open.step)}});
    };
    const int place = static_cast<int>(checked.size());
    if (place >= counts.count_size()) {
      return refuse(v1::ERROR_REASON_HISTOGRAM_INVALID,
                    absl::StrCat("has no counts; ", counts.count_size(), " came, one for each grid is needed"));
    }
    const v1::StepCount& count = counts.count(place);
    const ReferenceGrid grid = open.GridOf(observed.layer);
    if (count.grid().low() != grid.low || count.grid().high() != grid.high || count.grid().bins() != grid.bins) {
      return refuse(v1::ERROR_REASON_REFERENCE_GRID_MISMATCH,
                    absl::StrCat("was counted on ", count.grid().bins(), " bins from ", count.grid().low(), " to ",
                                 count.grid().high(), ", and the step's grid has ", grid.bins, " from ", grid.low,
                                 " to ", grid.high));
    }
    if (static_cast<uint32_t>(count.count_size()) != grid.bins) {
      return refuse(v1::ERROR_REASON_HISTOGRAM_INVALID,
                    absl::StrCat("has ", count.count_size(), " counts for ", grid.bins, " bins"));
    }
    uint64_t total = 0;
    for (const uint64_t value : count.count()) total = SaturatingAdd(total, value);
    if (total > observed.ranges.front().count) {
      return refuse(v1::ERROR_REASON_HISTOGRAM_INVALID,
                    absl::StrCat("counts ", total, " values, and its range ", observed.ranges.front().count));
    }
    checked.emplace_back(count.count().begin(), count.count().end());
  }
  if (static_cast<int>(checked.size()) != counts.count_size()) {
    return MakeError(v1::ERROR_REASON_HISTOGRAM_INVALID,
                     absl::StrCat(counts.count_size(), " counts came for ", checked.size(), " grids"),
                     {{"step", absl::StrCat(open.step)}});
  }
  return checked;
}

}  // namespace

absl::Status Session::NotSynchronousError() const {
  return MakeError(
      v1::ERROR_REASON_SESSION_NOT_SYNCHRONOUS,
      absl::StrCat("session ", Quoted(name_), " has no synchronous steps; create one whose config says `synchronous`"),
      {{"session", name_}});
}

absl::Status Session::CheckSender(const StepSender& sender) const {
  if (deleted_) return DeletedError();
  const WorkerRecord& record = workers_[sender.worker].record;
  if (record.incarnation != sender.incarnation) return FencedError(record.id);
  if (!steps_.has_value()) return NotSynchronousError();
  if (!sender.rank.has_value()) {
    return MakeError(v1::ERROR_REASON_RANK_INVALID,
                     "the stream was opened without a rank; open one with the rank whose part it sends");
  }
  return absl::OkStatus();
}

absl::StatusOr<Session::StepOutcome> Session::Contribute(const StepSender& sender, StepUpdate update,
                                                         absl::Duration now) {
  MutexLock lock(&mutex_);
  if (absl::Status status = CheckSender(sender); !status.ok()) return status;
  const absl::StatusOr<StepWindow::Verdict> verdict = steps_->Check(*sender.rank, update.world_epoch, update.step);
  if (!verdict.ok()) return verdict.status();
  Worker& worker = workers_[sender.worker];
  StepOutcome outcome;
  StepsRecord& record = steps_->mutable_record();
  if (*verdict == StepWindow::Verdict::kCounted || *verdict == StepWindow::Verdict::kLate) {
    const bool counted = *verdict == StepWindow::Verdict::kCounted;
    counted ? ++record.repeated_contributions : ++record.late_contributions;
    (counted ? counters_->repeated_contributions : counters_->late_contributions) += 1;
    ++version_;
    worker.step = std::max(worker.step, update.step);
    SendStep(sender.worker, sender.incarnation,
             MakeStepResult(*steps_->FindFolded(update.step), AnsweredLayersOf(update), counted), &outcome.notices);
    return outcome;
  }
  if (record_.sealed) return SealedError();
  if (absl::Status status = CheckStepUpdate(update); !status.ok()) return status;

  // Nothing from here on can fail.
  BindLayers(&update);
  const auto contribution = std::make_shared<StepContribution>(std::move(update.contribution));
  contribution->worker = sender.worker;
  contribution->incarnation = sender.incarnation;
  if (*verdict == StepWindow::Verdict::kAgain) {
    ++record.repeated_contributions;
    counters_->repeated_contributions += 1;
    ++version_;
  }
  steps_->Take(*sender.rank, update.step, contribution, now);
  worker.step = std::max(worker.step, update.step);
  const OpenStep& open = *steps_->Find(update.step);
  if (open.stage == OpenStep::Stage::kCounting && !contribution->counts.has_value() && contribution->has_references) {
    SendStep(sender.worker, sender.incarnation, MakeStepGrids(open, *contribution, record.world_epoch),
             &outcome.notices);
  }
  AdvanceSteps(now, &outcome.notices);
  outcome.deadline = steps_->Deadline();
  outcome.bytes_since_cut = bytes_since_cut_;
  return outcome;
}

absl::StatusOr<Session::StepOutcome> Session::TakeCounts(const StepSender& sender, const v1::StepCounts& counts,
                                                         absl::Duration now) {
  MutexLock lock(&mutex_);
  if (absl::Status status = CheckSender(sender); !status.ok()) return status;
  const absl::StatusOr<StepWindow::Verdict> verdict = steps_->Check(*sender.rank, counts.world_epoch(), counts.step());
  if (!verdict.ok()) return verdict.status();
  StepOutcome outcome;
  OpenStep* const open = steps_->Find(counts.step());
  // Counts of a step that is folded, that has others already, or whose grids are being made anew: not awaited.
  if (*verdict != StepWindow::Verdict::kAgain || open->stage != OpenStep::Stage::kCounting) return outcome;
  const auto found = open->ranks.find(*sender.rank);
  if (found == open->ranks.end()) return outcome;  // left out
  StepContribution& contribution = *found->second;
  if (contribution.worker != sender.worker || contribution.incarnation != sender.incarnation) return outcome;
  if (contribution.counts.has_value()) return outcome;
  absl::StatusOr<std::vector<std::vector<uint64_t>>> checked = CheckCounts(*open, contribution, counts);
  if (!checked.ok()) {
    // The rank was sent newer grids, and will answer them too.
    const bool outdated = open->regridded && GetReason(checked.status()) == v1::ERROR_REASON_REFERENCE_GRID_MISMATCH;
    if (outdated) return outcome;
    return checked.status();
  }
  size_t bytes = 0;
  for (const std::vector<uint64_t>& layer : *checked) bytes += sizeof(std::vector<uint64_t>) + layer.size() * 8;
  steps_->AddBytes(&contribution, bytes);
  contribution.counts = *std::move(checked);
  AdvanceSteps(now, &outcome.notices);
  outcome.deadline = steps_->Deadline();
  outcome.bytes_since_cut = bytes_since_cut_;
  return outcome;
}

Session::StepOutcome Session::ExpireSteps(absl::Duration now) {
  MutexLock lock(&mutex_);
  StepOutcome outcome;
  if (deleted_ || !steps_.has_value()) return outcome;
  for (std::optional<absl::Duration> deadline = steps_->Deadline(); deadline.has_value() && *deadline <= now;
       deadline = steps_->Deadline()) {
    OpenStep& lowest = *steps_->Lowest();
    if (steps_->options().straggler_policy == StragglerPolicy::kClosePartial) {
      if (lowest.stage == OpenStep::Stage::kCounting) StepWindow::LeaveOutUncounted(&lowest);
      lowest.closed = true;
      AdvanceSteps(now, &outcome.notices);
      continue;
    }
    const std::vector<uint32_t> missing = lowest.Missing();
    FailSteps(
        MakeError(v1::ERROR_REASON_STEP_TIMED_OUT,
                  absl::StrCat("step ", lowest.step, " failed: ", NameRanks(missing), " of ", lowest.world_size,
                               " did not ", lowest.stage == OpenStep::Stage::kCounting ? "send counts" : "contribute",
                               " within ", absl::FormatDuration(steps_->options().deadline),
                               "; nothing of it was counted: contribute again, or change the world"),
                  {{"step", absl::StrCat(lowest.step)}, {"session", name_}}),
        &outcome.notices);
  }
  outcome.deadline = steps_->Deadline();
  outcome.bytes_since_cut = bytes_since_cut_;
  return outcome;
}

absl::StatusOr<Session::WorldChange> Session::SetWorld(uint64_t expected_epoch, uint32_t world_size) {
  MutexLock lock(&mutex_);
  if (deleted_) return DeletedError();
  if (!steps_.has_value()) return NotSynchronousError();
  if (record_.sealed) return SealedError();
  const StepsRecord& record = steps_->record();
  if (expected_epoch != record.world_epoch) {
    return MakeError(v1::ERROR_REASON_WORLD_EPOCH_STALE,
                     absl::StrCat("the world's epoch is ", record.world_epoch, " and not ", expected_epoch,
                                  ": it was changed meanwhile, and has ", record.world_size, " ranks"),
                     {{"world_epoch", absl::StrCat(record.world_epoch)}, {"session", name_}});
  }
  const std::deque<OpenStep> dropped = steps_->DropOpen();
  steps_->SetWorld(world_size);
  ++version_;
  WorldChange change{.world_epoch = record.world_epoch, .folded_step = record.folded_step};
  for (uint32_t worker = 0; worker < workers_.size(); ++worker) {
    if (!workers_[worker].rank.has_value()) continue;
    SendStep(worker, workers_[worker].record.incarnation, MakeWorld(record), &change.notices);
  }
  const auto refuse = [&](uint64_t step) {
    return MakeError(
        v1::ERROR_REASON_WORLD_EPOCH_STALE,
        absl::StrCat("step ", step, " was dropped: the world changed to epoch ", record.world_epoch, " with ",
                     record.world_size, " ranks; contribute to step ", record.folded_step + 1, " anew"),
        {{"world_epoch", absl::StrCat(record.world_epoch)}, {"expected", absl::StrCat(record.folded_step + 1)}});
  };
  for (const OpenStep& open : dropped) RefuseStep(open, refuse(open.step), &change.notices);
  return change;
}

absl::Status Session::CheckStepUpdate(const StepUpdate& update) {
  const StepContribution& contribution = update.contribution;
  const bool lowest = update.step == steps_->record().folded_step + 1;
  // The lowest step's contributions are what lets the others go.
  if (!lowest && steps_->bytes() + contribution.bytes > limits_.max_step_bytes) {
    return LimitExceeded(absl::StrCat("the open steps of session ", Quoted(name_), " would take ",
                                      steps_->bytes() + contribution.bytes, " bytes"),
                         "--max-step-bytes", limits_.max_step_bytes);
  }
  size_t new_layers = 0;
  for (size_t i = 0; i < update.bindings.size(); ++i) {
    LayerBinding* const binding = update.bindings[i];
    const bool observed = i < contribution.observed.size();
    const size_t channels = observed ? contribution.observed[i].ranges.size()
                                     : contribution.gradients[i - contribution.observed.size()].sums.size();
    FindLayer(binding);
    if (binding->layer == nullptr && layers_.size() + ++new_layers > limits_.max_layers) {
      return LimitExceeded(
          absl::StrCat("session ", Quoted(name_), " would have ", layers_.size() + new_layers, " layers"),
          "--max-layers", limits_.max_layers, binding->name);
    }
    if (channels > limits_.max_channels) {
      return LimitExceeded(absl::StrCat("layer ", Quoted(binding->name), " has ", channels, " channels"),
                           "--max-channels", limits_.max_channels, binding->name);
    }
    const LayerStatistics empty(*binding->observer);
    const LayerStatistics& statistics = binding->layer == nullptr ? empty : *binding->layer->statistics;
    if (!observed) {
      absl::Status status =
          CheckRankGradients(*binding, statistics, contribution.gradients[i - contribution.observed.size()], lowest);
      if (!status.ok()) return status;
    } else if (absl::Status status = statistics.CheckChannelCount(channels); !status.ok()) {
      return MakeError(v1::ERROR_REASON_CHANNEL_COUNT_CHANGED,
                       absl::StrCat("layer ", Quoted(binding->name), ": ", status.message()),
                       {{"layer", binding->name}});
    }
  }
  return CheckStateBytes();
}

void Session::BindLayers(StepUpdate* update) {
  StepContribution& contribution = update->contribution;
  for (size_t i = 0; i < update->bindings.size(); ++i) {
    LayerBinding* const binding = update->bindings[i];
    const size_t observed = contribution.observed.size();
    const size_t channels =
        i < observed ? contribution.observed[i].ranges.size() : contribution.gradients[i - observed].sums.size();
    if (binding->layer == nullptr) {
      // Its channel count is fixed from now on, so that all ranks' contributions fit together.
      ++version_;
      LayerStatistics statistics(*binding->observer);
      statistics.SetChannelCount(channels).IgnoreError();
      binding->layer = AddLayer(binding->name, SharedStatistics(std::move(statistics)), binding->quant_spec);
      Account(binding->layer);
    }
    (i < observed ? contribution.observed[i].layer : contribution.gradients[i - observed].layer) = binding->layer;
  }
}

}  // namespace calib::server
