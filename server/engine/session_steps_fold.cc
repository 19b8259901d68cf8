#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/codec/error.h"
#include "server/engine/session.h"
#include "server/engine/step_fold.h"
#include "server/engine/step_messages.h"
#include "server/engine/validate.h"

// Synchronous steps: what follows from contributions.
namespace calib::server {

void Session::AdvanceSteps(absl::Duration now, Notices* notices) {
  for (OpenStep* open = steps_->Lowest(); open != nullptr; open = steps_->Lowest()) {
    if (!open->closed && open->IsAwaited()) return;
    absl::StatusOr<StepFold> fold = StepFold::Reduce(*open);
    if (!fold.ok()) return FailSteps(fold.status(), notices);
    if (open->stage == OpenStep::Stage::kContributing) {
      if (absl::Status status = fold->MakeGrids(open); !status.ok()) return FailSteps(status, notices);
      if (!open->grids.empty()) {
        open->stage = OpenStep::Stage::kCounting;
        open->partial = open->closed;
        open->closed = false;
        open->since = now;
        for (const auto& [rank, contribution] : open->ranks) {
          if (!contribution->has_references) continue;
          SendStep(contribution->worker, contribution->incarnation,
                   MakeStepGrids(*open, *contribution, steps_->record().world_epoch), notices);
        }
        return;
      }
    }
    if (absl::Status status = fold->Check(); !status.ok()) return FailSteps(status, notices);
    FoldStep(*open, *fold, notices);
  }
}

void Session::FoldStep(const OpenStep& open, const StepFold& fold, Notices* notices) {
  ++version_;
  StepsRecord& record = steps_->mutable_record();
  std::vector<Layer*> changed;
  uint64_t ignored = 0, values = 0;
  const std::shared_ptr<const FoldedStep> folded = fold.Apply(open, record.world_epoch, &changed, &ignored);
  for (const auto& [rank, contribution] : open.ranks) {
    values = SaturatingAdd(values, contribution->Values());
    bytes_since_cut_ += contribution->bytes;
  }
  for (Layer* const layer : changed) {
    layer->version = version_;
    Account(layer);
  }
  for (const auto& [rank, contribution] : open.ranks) {
    const auto mark = [workers = workers_.size(), worker = contribution->worker](Layer* layer) {
      if (!layer->enabled) return;
      if (layer->contributors.size() <= worker) layer->contributors.resize(workers);
      layer->contributors[worker] = true;
    };
    for (const auto& observed : contribution->observed) mark(observed.layer);
    for (const auto& gradients : contribution->gradients) mark(gradients.layer);
  }
  values -= std::min(values, ignored);
  values_ = SaturatingAdd(values_, values);
  record_.values_ignored = SaturatingAdd(record_.values_ignored, ignored);
  counters_->values_observed += values;
  counters_->values_ignored += ignored;
  counters_->steps_folded += 1;
  if (open.partial || !open.AllContributed() || open.IsAwaited()) {
    ++record.partial_steps;
    counters_->partial_steps += 1;
  }
  const bool forgets = record.kept.size() == steps_->options().window;
  AccountBytes(static_cast<int64_t>(folded->MemoryBytes()) -
               (forgets ? static_cast<int64_t>(record.kept.front()->MemoryBytes()) : 0));
  const OpenStep done = steps_->PopFolded(folded);
  // Contributors that gave the same layers in the same order get the same message.
  const StepContribution* like = nullptr;
  StepMessage message;
  for (const auto& [rank, contribution] : done.ranks) {
    if (like == nullptr || !contribution->SameLayers(*like)) {
      message = MakeStepResult(*folded, AnsweredLayers(*contribution), true);
      like = contribution.get();
    }
    SendStep(contribution->worker, contribution->incarnation, message, notices);
  }
  for (const auto& [rank, contribution] : done.left_out) {
    ++record.late_contributions;
    counters_->late_contributions += 1;
    SendStep(contribution->worker, contribution->incarnation,
             MakeStepResult(*folded, AnsweredLayers(*contribution), false), notices);
  }
}

void Session::FailSteps(const absl::Status& status, Notices* notices) {
  const uint64_t lowest = steps_->Lowest()->step;
  ++version_;
  ++steps_->mutable_record().failed_steps;
  counters_->failed_steps += 1;
  for (const OpenStep& open : steps_->DropOpen()) {
    RefuseStep(open,
               open.step == lowest
                   ? status
                   : MakeError(GetReason(status), absl::StrCat("step ", open.step, " was dropped: ", status.message()),
                               {{"step", absl::StrCat(lowest)}, {"session", name_}}),
               notices);
  }
}

void Session::RefuseStep(const OpenStep& open, const absl::Status& status, Notices* notices) const {
  const StepMessage message = MakeStepRefusal(open.step, status);
  for (const auto* ranks : {&open.ranks, &open.left_out}) {
    for (const auto& [rank, contribution] : *ranks) {
      SendStep(contribution->worker, contribution->incarnation, message, notices);
    }
  }
}

void Session::SendStep(uint32_t worker, uint64_t incarnation, std::shared_ptr<const v1::ObserveResponse> message,
                       Notices* notices) const {
  // Answers are in the handles and the order of the stream that contributed.
  if (workers_[worker].record.incarnation != incarnation) return;
  if (workers_[worker].listener == nullptr) return;
  notices->Add([listener = workers_[worker].listener, message = std::move(message)] { listener->OnStep(message); });
}

}  // namespace calib::server
