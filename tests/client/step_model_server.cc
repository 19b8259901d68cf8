#include "tests/client/step_model_server.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/codec/error.h"

namespace calib::test {

std::optional<v1::Welcome> StepModelServer::Open(uint32_t rank) {
  if (rank >= state_.world_size) return std::nullopt;
  streams_[rank] = Stream();
  v1::Welcome welcome;
  welcome.mutable_world()->set_epoch(state_.epoch);
  welcome.mutable_world()->set_size(state_.world_size);
  welcome.set_folded_step(folded_step());
  welcome.set_durable_step(durable_step());
  welcome.mutable_config()->mutable_synchronous()->set_window(options_.window);
  return welcome;
}

void StepModelServer::Answer(uint32_t rank, v1::ObserveResponse response) {
  const auto stream = streams_.find(rank);
  if (stream != streams_.end()) stream->second.answers.push_back(std::move(response));
}

void StepModelServer::Refuse(uint32_t rank, uint64_t step, v1::ErrorReason reason, uint64_t expected) {
  v1::ObserveResponse response;
  v1::Refusal* const refusal = response.mutable_refusal();
  refusal->set_step(step);
  refusal->set_code(static_cast<int>(CodeOfReason(reason)));
  refusal->set_message(absl::StrCat("refused: ", ReasonName(reason)));
  refusal->mutable_info()->set_reason(ReasonName(reason));
  refusal->mutable_info()->set_domain("calibd");
  if (expected > 0) (*refusal->mutable_info()->mutable_metadata())["expected"] = absl::StrCat(expected);
  Answer(rank, std::move(response));
}

void StepModelServer::BreakRule(const std::string& what) {
  if (broken_rule_.empty()) broken_rule_ = what;
}

void StepModelServer::Take(uint32_t rank, const v1::ObserveRequest& request) {
  std::vector<std::string>& names = streams_.at(rank).names;
  switch (request.kind_case()) {
    case v1::ObserveRequest::kRegisterLayers:
      if (request.register_layers().first_handle() != names.size()) BreakRule("handles out of order");
      names.insert(names.end(), request.register_layers().name().begin(), request.register_layers().name().end());
      return;
    case v1::ObserveRequest::kStepContribution:
      return TakeContribution(rank, request.step_contribution());
    case v1::ObserveRequest::kStepCounts:
      return TakeCounts(rank, request.step_counts());
    default:
      BreakRule("a message that is none of a step");
  }
}

void StepModelServer::TakeContribution(uint32_t rank, const v1::StepContribution& contribution) {
  const uint64_t step = contribution.step();
  if (rank >= state_.world_size) return Refuse(rank, step, v1::ERROR_REASON_RANK_INVALID);
  if (step <= folded_step() && step + options_.window > folded_step()) return SendResult(rank, step);
  if (contribution.world_epoch() != state_.epoch) return Refuse(rank, step, v1::ERROR_REASON_WORLD_EPOCH_STALE);
  if (step <= folded_step() || step > folded_step() + options_.window) {
    return Refuse(rank, step, v1::ERROR_REASON_STEP_OUT_OF_WINDOW, folded_step() + 1);
  }
  const std::vector<std::string>& names = streams_.at(rank).names;
  const v1::StatisticsBatch& statistics = contribution.statistics();
  Contribution given;
  for (int i = 0; i < statistics.layer_size(); ++i) {
    if (statistics.layer(i) >= names.size()) return BreakRule("an unknown handle");
    const std::string& name = names[statistics.layer(i)];
    if (name == "a") given.token = statistics.count(i);
    given.counts_wanted = given.counts_wanted || name == "reference";
  }
  OpenStep& open = open_[step];
  const auto earlier = open.ranks.find(rank);
  if (earlier != open.ranks.end() && earlier->second.token == given.token) {
    given.counted = earlier->second.counted;
  } else if (open.grid_end.has_value()) {
    // Its grids were made of other tokens.
    open.grid_end.reset();
    for (auto& [other, contributed] : open.ranks) contributed.counted = false;
  }
  open.ranks[rank] = given;
  if (open.grid_end.has_value() && given.counts_wanted && !given.counted) SendGrids(rank, step, open);
  Advance();
}

void StepModelServer::TakeCounts(uint32_t rank, const v1::StepCounts& counts) {
  const auto open = open_.find(counts.step());
  if (counts.world_epoch() != state_.epoch || open == open_.end() || !open->second.grid_end.has_value()) return;
  const auto contribution = open->second.ranks.find(rank);
  if (contribution == open->second.ranks.end() || contribution->second.counted) return;
  if (counts.count_size() != 1) return BreakRule("counts of other layers");
  if (counts.count(0).grid().high() != *open->second.grid_end) {
    return Refuse(rank, counts.step(), v1::ERROR_REASON_REFERENCE_GRID_MISMATCH);
  }
  if (counts.count(0).count_size() != 1 || counts.count(0).count(0) != contribution->second.token) {
    return BreakRule("counts of another contribution");
  }
  contribution->second.counted = true;
  Advance();
}

void StepModelServer::Advance() {
  while (!open_.empty() && open_.begin()->first == folded_step() + 1) {
    const uint64_t step = open_.begin()->first;
    OpenStep& open = open_.begin()->second;
    if (!open.grid_end.has_value()) {
      if (open.ranks.size() < state_.world_size && !open.closed) return;
      double sum = 0;
      for (const auto& [rank, contribution] : open.ranks) sum += static_cast<double>(contribution.token);
      open.grid_end = sum;
      for (const auto& [rank, contribution] : open.ranks) {
        if (contribution.counts_wanted) SendGrids(rank, step, open);
      }
    }
    const bool all_counted = std::all_of(open.ranks.begin(), open.ranks.end(), [](const auto& rank) {
      return rank.second.counted || !rank.second.counts_wanted || rank.second.left_out;
    });
    if (!all_counted) return;
    Folded folded{state_.epoch, state_.world_size, {}};
    for (const auto& [rank, contribution] : open.ranks) {
      if (!contribution.left_out) folded.tokens[rank] = contribution.token;
    }
    state_.folded.push_back(folded);
    for (const auto& [rank, contribution] : open.ranks) SendResult(rank, step);
    open_.erase(open_.begin());
  }
}

void StepModelServer::SendResult(uint32_t rank, uint64_t step) {
  const Folded& folded = state_.folded[step - 1];
  v1::ObserveResponse response;
  v1::StepResult* const result = response.mutable_step_result();
  result->set_step(step);
  result->set_world_epoch(folded.epoch);
  result->set_world_size(folded.world_size);
  result->set_ranks(static_cast<uint32_t>(folded.tokens.size()));
  result->set_counted(folded.tokens.count(rank) == 1);
  Answer(rank, std::move(response));
}

void StepModelServer::SendGrids(uint32_t rank, uint64_t step, const OpenStep& open) {
  v1::ObserveResponse response;
  v1::StepGrids* const grids = response.mutable_step_grids();
  grids->set_step(step);
  grids->set_world_epoch(state_.epoch);
  v1::StepGrid* const grid = grids->add_grid();
  grid->set_high(*open.grid_end);
  grid->set_bins(1);
  Answer(rank, std::move(response));
}

void StepModelServer::Checkpoint() {
  durable_ = state_;
  for (const auto& [rank, stream] : streams_) {
    v1::ObserveResponse response;
    response.mutable_ack()->set_folded_step(folded_step());
    response.mutable_ack()->set_durable_step(durable_step());
    Answer(rank, std::move(response));
  }
}

void StepModelServer::Crash() {
  state_ = durable_;
  open_.clear();
  streams_.clear();
}

void StepModelServer::Expire() {
  if (open_.empty() || options_.policy == v1::STRAGGLER_POLICY_WAIT) return;
  if (options_.policy == v1::STRAGGLER_POLICY_FAIL) return DropOpen(v1::ERROR_REASON_STEP_TIMED_OUT);
  OpenStep& lowest = open_[folded_step() + 1];
  for (auto& [rank, contribution] : lowest.ranks) {
    contribution.left_out = lowest.grid_end.has_value() && contribution.counts_wanted && !contribution.counted;
  }
  lowest.closed = true;
  Advance();
}

void StepModelServer::DropOpen(v1::ErrorReason reason) {
  for (const auto& [step, open] : std::exchange(open_, {})) {
    for (const auto& [rank, contribution] : open.ranks) Refuse(rank, step, reason);
  }
}

void StepModelServer::SetWorld(uint32_t size) {
  ++state_.epoch;
  state_.world_size = size;
  durable_ = state_;
  for (const auto& [rank, stream] : streams_) {
    v1::ObserveResponse response;
    response.mutable_world()->set_epoch(state_.epoch);
    response.mutable_world()->set_size(size);
    Answer(rank, std::move(response));
  }
  DropOpen(v1::ERROR_REASON_WORLD_EPOCH_STALE);
}

}  // namespace calib::test
