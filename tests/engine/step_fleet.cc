#include "tests/engine/step_fleet.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "proto/codec/error.h"

namespace calib::server::test {
namespace {

// The contribution without what depends on the stream: equal for contributions that say the same.
std::string ContentOf(const v1::StepContribution& contribution, const LayerHandles& handles) {
  std::vector<uint32_t> layer_of(handles.size());
  for (uint32_t layer = 0; layer < handles.size(); ++layer) layer_of[handles[layer]] = layer;
  v1::StepContribution content = contribution;
  for (uint32_t& layer : *content.mutable_statistics()->mutable_layer()) layer = layer_of[layer];
  for (uint32_t& layer : *content.mutable_gradients()->mutable_layer()) layer = layer_of[layer];
  if (content.gradients().weight() == 0) content.mutable_gradients()->set_weight(1);
  return content.SerializeAsString();
}

v1::ErrorReason ReasonOf(const v1::Refusal& refusal) {
  v1::ErrorReason reason = v1::ERROR_REASON_UNSPECIFIED;
  v1::ErrorReason_Parse("ERROR_REASON_" + refusal.info().reason(), &reason);
  return reason;
}

v1::ErrorReason ReasonOf(StepModel::Verdict verdict) {
  switch (verdict) {
    case StepModel::Verdict::kNoRank:
      return v1::ERROR_REASON_RANK_INVALID;
    case StepModel::Verdict::kStale:
      return v1::ERROR_REASON_WORLD_EPOCH_STALE;
    case StepModel::Verdict::kOutOfWindow:
      return v1::ERROR_REASON_STEP_OUT_OF_WINDOW;
    default:
      return v1::ERROR_REASON_UNSPECIFIED;
  }
}

}  // namespace

bool SimulatedRank::done() const {
  return to_server_.empty() && to_rank_.empty() && folded_ >= world_.steps &&
         std::all_of(kept_.begin(), kept_.end(),
                     [](const auto& kept) { return kept.second.state == Kept::State::kAnswered; });
}

void SimulatedRank::Connect() {
  v1::Open open;
  open.set_session("s");
  open.set_worker_id(absl::StrCat("rank-", rank_, "-", process_));
  open.set_rank(rank_);
  auto connected = std::make_unique<Stream>();
  connected->listener = std::make_shared<TestListener>();
  absl::StatusOr<std::unique_ptr<ObserveStream>> stream = ObserveStream::Open(world_.engine, open, connected->listener);
  if (rank_ >= world_.model->world_size()) {
    EXPECT_EQ(GetReason(stream.status()), v1::ERROR_REASON_RANK_INVALID) << stream.status();
    return;
  }
  ASSERT_TRUE(stream.ok()) << stream.status();
  Cut(/*noticed=*/false);
  for (const std::unique_ptr<Stream>& older : abandoned_) {
    EXPECT_EQ(GetReason(older->listener->end_status()), v1::ERROR_REASON_WORKER_FENCED);
    EXPECT_TRUE(older->listener->TakeSteps().empty()) << "told after it was fenced";
  }
  abandoned_.clear();
  connected->stream = *std::move(stream);
  connected->handles.resize(SimulatedLayers().size());
  std::iota(connected->handles.begin(), connected->handles.end(), 0);
  std::shuffle(connected->handles.begin(), connected->handles.end(), *world_.rng);
  std::vector<std::string> names(SimulatedLayers().size());
  for (size_t i = 0; i < names.size(); ++i) names[connected->handles[i]] = SimulatedLayers()[i].name;
  ASSERT_TRUE(connected->stream->Handle(RegisterRequest(0, names)).ok());
  stream_ = std::move(connected);
  TakeWelcome(stream_->stream->welcome());
}

void SimulatedRank::TakeWelcome(const v1::Welcome& welcome) {
  EXPECT_EQ(welcome.folded_step(), world_.model->folded_step());
  EXPECT_EQ(welcome.durable_step(), world_.model->durable_step());
  EXPECT_EQ(welcome.world().epoch(), world_.model->world_epoch());
  EXPECT_EQ(welcome.world().size(), world_.model->world_size());
  const bool new_world = world_epoch_ != welcome.world().epoch();
  const bool new_process = world_epoch_ == 0;
  world_epoch_ = welcome.world().epoch();
  folded_ = welcome.folded_step();
  for (auto& [step, kept] : kept_) {
    if (step <= folded_ && kept.state == Kept::State::kAnswered) continue;
    kept.state = Kept::State::kToSend;
    if (step > folded_ && new_world) kept.tensors = NewTensors(step);
  }
  // A process that begins from an older state of its own takes steps once more that are folded.
  if (!new_process) return;
  initialized_ = LayerSet(SimulatedLayers().size());
  for (uint64_t again = (*world_.rng)() % 3; again > 0; --again) {
    if (again <= folded_) kept_[folded_ + 1 - again] = {NewTensors(folded_ + 1 - again)};
  }
}

void SimulatedRank::Cut(bool noticed) {
  to_server_.clear();
  to_rank_.clear();
  if (stream_ != nullptr && !noticed) abandoned_.push_back(std::move(stream_));
  stream_ = nullptr;
}

void SimulatedRank::Crash(bool keeps_id) {
  Cut((*world_.rng)() % 2 == 0);
  if (!keeps_id) ++process_;
  world_epoch_ = 0;
  folded_ = 0;
  kept_.clear();
}

void SimulatedRank::Disconnect() {
  Cut(/*noticed=*/true);
  abandoned_.clear();
}

std::shared_ptr<const RankTensors> SimulatedRank::NewTensors(uint64_t step) {
  return RandomTensors(world_.rng, step, world_.layers, initialized_);
}

void SimulatedRank::Send(uint64_t world_epoch, uint64_t step, const std::shared_ptr<const RankTensors>& tensors) {
  to_server_.push_back({ContributionRequest(world_epoch, step, *tensors, stream_->handles), tensors});
}

void SimulatedRank::Contribute() {
  for (auto& [step, kept] : kept_) {
    if (kept.state != Kept::State::kToSend || step > folded_ + world_.window) continue;
    kept.state = Kept::State::kSent;
    kept.world_epoch = world_epoch_;
    return Send(world_epoch_, step, kept.tensors);
  }
  for (uint64_t step = folded_ + 1; step <= std::min(folded_ + world_.window, world_.steps); ++step) {
    if (kept_.count(step) > 0) continue;
    kept_[step] = {NewTensors(step), Kept::State::kSent, world_epoch_};
    return Send(world_epoch_, step, kept_[step].tensors);
  }
}

void SimulatedRank::Repeat() {
  std::vector<uint64_t> sent;
  for (const auto& [step, kept] : kept_) {
    if (kept.state != Kept::State::kToSend) sent.push_back(step);
  }
  if (sent.empty()) return;
  const uint64_t step = sent[(*world_.rng)() % sent.size()];
  Send(world_epoch_, step, kept_[step].tensors);
}

void SimulatedRank::Stray() {
  const bool too_far = (*world_.rng)() % 2 == 0;
  const uint64_t step = folded_ + 1 + (too_far ? world_.window : 0) + (*world_.rng)() % 2;
  Send(too_far ? world_epoch_ : world_epoch_ - 1, step, std::make_shared<RankTensors>());
}

void SimulatedRank::TakeAck() {
  const v1::Ack ack = stream_->stream->ack();
  EXPECT_EQ(ack.folded_step(), world_.model->folded_step());
  EXPECT_EQ(ack.durable_step(), world_.model->durable_step());
  for (auto kept = kept_.begin(); kept != kept_.end() && kept->first <= ack.durable_step();) {
    kept = kept->second.state == Kept::State::kAnswered ? kept_.erase(kept) : std::next(kept);
  }
}

bool SimulatedRank::DeliverToServer() {
  if (to_server_.empty()) return false;
  const Request request = std::move(to_server_.front());
  to_server_.pop_front();
  if (request.message.has_step_contribution()) {
    HandleContribution(request);
    return true;
  }
  const v1::StepCounts& counts = request.message.step_counts();
  const StepModel::Verdict verdict = world_.model->Judge(rank_, counts.world_epoch(), counts.step());
  const absl::Status status = stream_->stream->Handle(request.message);
  EXPECT_EQ(GetReason(status), ReasonOf(verdict)) << status;
  const auto grids = stream_->grids.find(counts.step());
  if (status.ok() && grids != stream_->grids.end() &&
      std::equal(counts.count().begin(), counts.count().end(), grids->second.grid().begin(), grids->second.grid().end(),
                 [](const v1::StepCount& count, const v1::StepGrid& grid) {
                   return count.grid().SerializeAsString() == grid.SerializeAsString();
                 })) {
    world_.model->TakeCounts(rank_, counts.step());
  }
  if (!status.ok()) Refuse(request.message, status);
  return true;
}

void SimulatedRank::HandleContribution(const Request& request) {
  const v1::StepContribution& contribution = request.message.step_contribution();
  const uint64_t step = contribution.step();
  const StepModel::Verdict verdict = world_.model->Judge(rank_, contribution.world_epoch(), step);
  const absl::Status status = stream_->stream->Handle(request.message);
  EXPECT_EQ(GetReason(status), ReasonOf(verdict)) << status;
  if (!status.ok()) return Refuse(request.message, status);
  stream_->given[step] = request.tensors;
  stream_->awaiting.insert(step);
  world_.model->NoteAnswered(verdict);
  if (verdict == StepModel::Verdict::kNew || verdict == StepModel::Verdict::kAgain) {
    world_.model->Take(rank_, step, request.tensors, ContentOf(contribution, stream_->handles),
                       world_.clock->Elapsed());
  }
}

void SimulatedRank::Refuse(const v1::ObserveRequest& request, const absl::Status& status) {
  ASSERT_FALSE(ObserveStream::EndsStream(status)) << status;
  auto response = std::make_shared<v1::ObserveResponse>();
  *response->mutable_refusal() = stream_->stream->MakeRefusal(request, status);
  EXPECT_EQ(response->refusal().step(),
            request.has_step_counts() ? request.step_counts().step() : request.step_contribution().step());
  to_rank_.push_back(std::move(response));
}

void SimulatedRank::CheckAnswers() {
  const auto check = [this](Stream* stream, bool arrives) {
    for (std::shared_ptr<const v1::ObserveResponse>& message : stream->listener->TakeSteps()) {
      CheckAnswer(*message, stream);
      if (arrives) to_rank_.push_back(std::move(message));
    }
    for (const uint64_t step : stream->awaiting) {
      EXPECT_TRUE(world_.model->IsOpen(rank_, step)) << "rank " << rank_ << " was not told about step " << step;
    }
  };
  if (stream_ != nullptr) check(stream_.get(), true);
  for (const std::unique_ptr<Stream>& stream : abandoned_) check(stream.get(), false);
}

void SimulatedRank::CheckAnswer(const v1::ObserveResponse& message, Stream* stream) {
  SCOPED_TRACE(absl::StrCat("to rank ", rank_, ": ", message.ShortDebugString()));
  if (message.has_step_result()) {
    const v1::StepResult& result = message.step_result();
    ASSERT_EQ(stream->awaiting.erase(result.step()), 1u) << "one answer a contribution";
    world_.model->ExpectResult(result, rank_, *stream->given[result.step()], stream->handles);
  } else if (message.has_refusal()) {
    EXPECT_EQ(stream->awaiting.erase(message.refusal().step()), 1u) << "one answer a contribution";
    EXPECT_FALSE(world_.model->IsOpen(rank_, message.refusal().step()));
    EXPECT_EQ(ReasonOf(message.refusal()), world_.model->last_drop());
  } else if (message.has_step_grids()) {
    EXPECT_EQ(stream->awaiting.count(message.step_grids().step()), 1u);
    EXPECT_EQ(message.step_grids().step(), world_.model->folded_step() + 1) << "grids follow from the steps before";
    EXPECT_EQ(message.step_grids().world_epoch(), world_.model->world_epoch());
    stream->grids[message.step_grids().step()] = message.step_grids();
  } else {
    ASSERT_TRUE(message.has_world());
    EXPECT_EQ(message.world().epoch(), world_.model->world_epoch());
    EXPECT_EQ(message.world().size(), world_.model->world_size());
  }
}

bool SimulatedRank::DeliverToRank() {
  if (to_rank_.empty()) return false;
  const std::shared_ptr<const v1::ObserveResponse> message = std::move(to_rank_.front());
  to_rank_.pop_front();
  if (message->has_step_result()) {
    TakeResult(message->step_result());
  } else if (message->has_refusal()) {
    TakeRefusal(message->refusal());
  } else if (message->has_step_grids()) {
    const auto kept = kept_.find(message->step_grids().step());
    if (kept == kept_.end()) return true;
    to_server_.push_back(
        {CountsRequest(message->step_grids(), *kept->second.tensors, stream_->handles), kept->second.tensors});
  } else {
    TakeWorld(message->world());
  }
  return true;
}

void SimulatedRank::TakeResult(const v1::StepResult& result) {
  folded_ = std::max(folded_, result.step());
  const auto kept = kept_.find(result.step());
  if (kept == kept_.end()) return;
  kept->second.state = Kept::State::kAnswered;
  const std::vector<const LayerTensor*> order = InMessageOrder(*stream_->given[result.step()], stream_->handles);
  for (size_t i = 0; i < order.size(); ++i) {
    const bool learned = SimulatedLayers()[order[i]->layer].config.kind == ObserverKind::kLearned;
    const bool has_params = result.params_size() == 0 || result.params(static_cast<int>(i)) > 0;
    if (learned && has_params) initialized_[order[i]->layer] = true;
  }
}

void SimulatedRank::TakeRefusal(const v1::Refusal& refusal) {
  const v1::ErrorReason reason = ReasonOf(refusal);
  if (reason == v1::ERROR_REASON_RANK_INVALID) return Cut(/*noticed=*/true);
  const auto kept = kept_.find(refusal.step());
  if (kept == kept_.end() || kept->second.state != Kept::State::kSent) return;
  // Of what was sent once more in the world before; meanwhile it was made anew.
  const bool outdated = reason == v1::ERROR_REASON_WORLD_EPOCH_STALE &&
                        refusal.info().metadata().at("world_epoch") == absl::StrCat(kept->second.world_epoch);
  if (outdated) return;
  kept->second.state = Kept::State::kToSend;
  if (reason == v1::ERROR_REASON_STEP_OUT_OF_WINDOW) {
    const uint64_t lowest = std::stoull(refusal.info().metadata().at("expected"));
    folded_ = std::max(folded_, lowest - 1);
    if (refusal.step() < lowest) kept_.erase(kept);
  } else if (reason == v1::ERROR_REASON_WORLD_EPOCH_STALE) {
    kept->second.tensors = NewTensors(refusal.step());
  }
}

void SimulatedRank::TakeWorld(const v1::World& world) {
  world_epoch_ = world.epoch();
  if (rank_ >= world.size()) Cut(/*noticed=*/true);
}

}  // namespace calib::server::test
