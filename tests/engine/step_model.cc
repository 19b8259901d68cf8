#include "tests/engine/step_model.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "gtest/gtest.h"
#include "quant/learned_observer.h"

namespace calib::server::test {
namespace {

bool HasReference(const RankTensors& tensors) {
  return std::any_of(tensors.layers.begin(), tensors.layers.end(), [](const LayerTensor& tensor) {
    return SimulatedLayers()[tensor.layer].config.kind == ObserverKind::kReferenceHistogram;
  });
}

uint64_t CountValues(const RankTensors& tensors) {
  uint64_t values = 0;
  for (const LayerTensor& tensor : tensors.layers) {
    for (const std::vector<float>& channel : tensor.channels) values += channel.size();
  }
  return values;
}

}  // namespace

StepModel::StepModel(const SynchronousOptions& options) : options_(options) { state_.world_size = options.world_size; }

StepModel::Verdict StepModel::Judge(uint32_t rank, uint64_t world_epoch, uint64_t step) const {
  if (rank >= state_.world_size) return Verdict::kNoRank;
  if (step > 0 && step <= folded_step() && step + options_.window > folded_step()) {
    const std::vector<bool>& ranks = state_.folded[step - 1]->ranks;
    return rank < ranks.size() && ranks[rank] ? Verdict::kCounted : Verdict::kLate;
  }
  if (world_epoch != state_.world_epoch) return Verdict::kStale;
  if (step <= folded_step() || step > folded_step() + options_.window) return Verdict::kOutOfWindow;
  return IsOpen(rank, step) ? Verdict::kAgain : Verdict::kNew;
}

void StepModel::NoteAnswered(Verdict verdict) {
  state_.late += verdict == Verdict::kLate ? 1 : 0;
  state_.repeated += verdict == Verdict::kCounted || verdict == Verdict::kAgain ? 1 : 0;
}

void StepModel::Take(uint32_t rank, uint64_t step, std::shared_ptr<const RankTensors> tensors,
                     const std::string& content, absl::Duration now) {
  OpenStep& open = open_.try_emplace(step, OpenStep{.ranks = {}, .since = now}).first->second;
  const auto [place, added] = open.ranks.try_emplace(rank);
  if (!added && place->second.content == content) {
    place->second.tensors = std::move(tensors);  // same values, maybe in another order
    return;
  }
  place->second = {std::move(tensors), content};
  // Grids are made of all ranks' ranges: after a change everybody counts anew.
  for (auto& [other, contribution] : open.ranks) contribution.counted = !HasReference(*contribution.tensors);
}

void StepModel::TakeCounts(uint32_t rank, uint64_t step) {
  if (IsOpen(rank, step)) open_[step].ranks[rank].counted = true;
}

void StepModel::SetWorld(uint32_t size) {
  ++state_.world_epoch;
  state_.world_size = size;
  open_.clear();
  last_drop_ = v1::ERROR_REASON_WORLD_EPOCH_STALE;
}

void StepModel::NoteExpired(absl::Duration now) { expired_ = now; }

void StepModel::NoteRestart() {
  state_ = durable_;
  open_.clear();
}

bool StepModel::IsOpen(uint32_t rank, uint64_t step) const {
  const auto open = open_.find(step);
  return open != open_.end() && open->second.ranks.count(rank) > 0;
}

bool StepModel::DeadlinePassed() const {
  return options_.straggler_policy != StragglerPolicy::kWait && !open_.empty() &&
         open_.begin()->second.since + options_.deadline <= expired_;
}

void StepModel::FoldLowest() {
  const uint64_t step = folded_step() + 1;
  const auto found = open_.find(step);
  const OpenStep lowest = found == open_.end() ? OpenStep() : found->second;
  const bool partial =
      lowest.ranks.size() < state_.world_size ||
      std::any_of(lowest.ranks.begin(), lowest.ranks.end(), [](const auto& rank) { return !rank.second.counted; });
  if (partial) {
    ASSERT_EQ(options_.straggler_policy, StragglerPolicy::kClosePartial) << "step " << step << " lacks ranks";
    ASSERT_TRUE(DeadlinePassed()) << "step " << step << " was closed early";
    ++state_.partial;
  }
  auto folded = std::make_shared<Folded>(Folded{.world_epoch = state_.world_epoch,
                                                .world_size = state_.world_size,
                                                .ranks = std::vector<bool>(state_.world_size),
                                                .after = oracle()});
  std::vector<std::shared_ptr<const RankTensors>> counted;
  for (const auto& [rank, contribution] : lowest.ranks) {
    if (!contribution.counted) {  // the step was closed before it had counted its values
      ++state_.late;
      continue;
    }
    folded->ranks[rank] = true;
    counted.push_back(contribution.tensors);
    state_.values += CountValues(*contribution.tensors);
  }
  folded->after.Fold(counted);
  state_.folded.push_back(std::move(folded));
  open_.erase(step);
}

void StepModel::Follow(const Session& session) {
  const Session::Summary summary = session.GetSummary();
  const StepsRecord& record = summary.record.steps;
  if (record.failed_steps != state_.failed) {
    ASSERT_EQ(options_.straggler_policy, StragglerPolicy::kFail);
    ASSERT_EQ(record.failed_steps, ++state_.failed);
    ASSERT_TRUE(DeadlinePassed()) << "a step failed early";
    open_.clear();
    last_drop_ = v1::ERROR_REASON_STEP_TIMED_OUT;
  }
  while (folded_step() < record.folded_step && !testing::Test::HasFatalFailure()) FoldLowest();
  // Steps that all have given are folded at once, and in order.
  const auto lowest = open_.find(folded_step() + 1);
  if (lowest != open_.end() && lowest->second.ranks.size() == state_.world_size) {
    EXPECT_TRUE(std::any_of(lowest->second.ranks.begin(), lowest->second.ranks.end(),
                            [](const auto& rank) { return !rank.second.counted; }))
        << "step " << lowest->first << " is complete";
  }
  EXPECT_EQ(record.folded_step, folded_step());
  EXPECT_EQ(record.world_epoch, state_.world_epoch);
  EXPECT_EQ(record.world_size, state_.world_size);
  EXPECT_EQ(record.partial_steps, state_.partial);
  EXPECT_EQ(record.late_contributions, state_.late);
  EXPECT_EQ(record.repeated_contributions, state_.repeated);
  EXPECT_EQ(summary.values, state_.values);
  EXPECT_EQ(summary.durable_step, durable_step());
  EXPECT_EQ(summary.open_steps, open_.size());
  // What is kept for steps is bounded by the window.
  EXPECT_LE(open_.size(), options_.window);
  EXPECT_EQ(record.kept.size(), std::min<uint64_t>(options_.window, folded_step()));
}

void StepModel::ExpectLayers(const Session& session) const {
  for (size_t i = 0; i < SimulatedLayers().size(); ++i) {
    const absl::StatusOr<Session::LayerSnapshot> layer = session.GetLayer(SimulatedLayers()[i].name);
    const LayerStatistics& expected = oracle().layer(i);
    if (!expected.empty()) {
      ASSERT_TRUE(layer.ok()) << layer.status();
      ASSERT_TRUE(layer->statistics.channels() == expected.channels()) << layer->name << " is not what one process has";
    } else if (layer.ok()) {  // some rank has given it, in a step that is not folded
      for (const ChannelStatistics& channel : layer->statistics.channels()) {
        ASSERT_TRUE(channel == ChannelStatistics::Empty(expected.config())) << layer->name;
      }
    }
  }
}

void StepModel::ExpectResult(const v1::StepResult& result, uint32_t rank, const RankTensors& tensors,
                             const LayerHandles& handles) const {
  ASSERT_GE(result.step(), 1u);
  ASSERT_LE(result.step(), folded_step());
  const Folded& folded = *state_.folded[result.step() - 1];
  EXPECT_EQ(result.world_epoch(), folded.world_epoch);
  EXPECT_EQ(result.world_size(), folded.world_size);
  EXPECT_EQ(result.ranks(), std::count(folded.ranks.begin(), folded.ranks.end(), true));
  EXPECT_EQ(result.counted(), rank < folded.ranks.size() && folded.ranks[rank]);
  folded.after.ExpectResult(result, tensors, handles);
}

LayerSet InitializedLayers(const StepOracle& oracle) {
  LayerSet initialized;
  for (size_t i = 0; i < SimulatedLayers().size(); ++i) initialized.push_back(IsInitialized(oracle.layer(i)));
  return initialized;
}

}  // namespace calib::server::test
