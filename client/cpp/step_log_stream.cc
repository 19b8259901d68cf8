#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "client/cpp/status.h"
#include "client/cpp/step_log.h"
#include "proto/codec/error.h"

// What the server says to a StepLog, and what it is sent.
namespace calib::client {
namespace {

constexpr size_t kMaxNamesBytes = size_t{1} << 20;
constexpr size_t kNameFieldBytes = 3;

absl::Status ServerError(absl::string_view what) {
  return absl::InternalError(absl::StrCat("the server contradicts itself, which is a bug in it: ", what));
}

// The number that the refusal expected; 0 when it names none.
uint64_t ExpectedStep(const absl::Status& refusal) {
  const std::optional<v1::ErrorInfo> info = GetErrorInfo(refusal);
  if (!info.has_value()) return 0;
  const auto found = info->metadata().find("expected");
  uint64_t expected = 0;
  if (found == info->metadata().end() || !absl::SimpleAtoi(found->second, &expected)) return 0;
  return expected;
}

}  // namespace

absl::Status StepLog::OnWelcome(const v1::Welcome& welcome) {
  if (!welcome.has_world()) {
    return MakeError(v1::ERROR_REASON_SESSION_NOT_SYNCHRONOUS,
                     "the server knows no synchronous steps of this session: create one with synchronous steps");
  }
  const StepWorld world = {welcome.world().epoch(), welcome.world().size()};
  if (welcome.durable_step() > welcome.folded_step() || world.epoch == 0 ||
      welcome.config().synchronous().window() == 0) {
    return ServerError(absl::StrCat("Welcome says folded step ", welcome.folded_step(), ", durable step ",
                                    welcome.durable_step(), ", world epoch ", world.epoch, ", window ",
                                    welcome.config().synchronous().window()));
  }
  // A restarted server may have forgotten a world that nobody was promised, but no step that it had called durable.
  if (welcome.durable_step() < durable_ || (world.epoch < world_.epoch && welcome.server_epoch() <= server_epoch_)) {
    return absl::DataLossError(
        absl::StrCat("the server says durable step ", welcome.durable_step(), " and world epoch ", world.epoch,
                     ", after step ", durable_, " and epoch ", world_.epoch,
                     "; the session's results lack what it lost: collect again in a new session"));
  }
  server_epoch_ = welcome.server_epoch();
  if (!settled_) next_step_ = welcome.folded_step() + 1;
  window_ = welcome.config().synchronous().window();
  folded_ = welcome.folded_step();
  durable_ = welcome.durable_step();
  OnStreamEnd();
  TakeWorld(world);
  ForgetDurable();
  for (auto& [step, entry] : entries_) {
    if (step > folded_ || !entry.ticket->answered) due_.insert(step);
  }
  open_ = true;
  return absl::OkStatus();
}

void StepLog::OnStreamEnd() {
  open_ = false;
  registered_ = 0;
  due_.clear();
  to_count_.clear();
  for (auto& [step, entry] : entries_) {
    entry.sent = false;
    entry.grids = nullptr;
    entry.counts_due = false;
  }
}

absl::Status StepLog::OnAck(const v1::Ack& ack) {
  if (ack.durable_step() > ack.folded_step() || ack.durable_step() < durable_) {
    return ServerError(absl::StrCat("Ack says folded step ", ack.folded_step(), " and durable step ",
                                    ack.durable_step(), ", after durable step ", durable_));
  }
  folded_ = std::max(folded_, ack.folded_step());
  durable_ = ack.durable_step();
  ForgetDurable();
  return absl::OkStatus();
}

void StepLog::OnWorld(const v1::World& world) {
  if (world.epoch() > world_.epoch) TakeWorld({world.epoch(), world.size()});
}

void StepLog::OnResult(v1::StepResult* result) {
  const uint64_t step = result->step();
  folded_ = std::max(folded_, step);
  const auto found = entries_.find(step);
  if (found == entries_.end()) return;
  Entry& entry = found->second;
  layers_accepted_ = std::max(layers_accepted_, entry.encoded.layers_used);
  due_.erase(step);
  to_count_.erase(step);
  if (!entry.ticket->answered) {
    auto kept = std::make_shared<v1::StepResult>();
    kept->Swap(result);
    entry.ticket->result = std::move(kept);
    Answer(&entry, absl::OkStatus());
  }
  if (step <= durable_) ForgetDurable();
}

StepLog::AfterRefusal StepLog::OnRefusal(const v1::Refusal& refusal, absl::Status* reason) {
  const absl::Status status = FromRefusal(refusal);
  *reason = status;
  switch (MeaningOf(status)) {
    case RefusalMeaning::kTryAgain:
      return AfterRefusal::kReopen;
    case RefusalMeaning::kWorkerEnds:
      return AfterRefusal::kEnd;
    case RefusalMeaning::kDataRefused:
      break;
  }
  if (refusal.step() == 0) return RefuseLayers(status);
  const auto found = entries_.find(refusal.step());
  if (found == entries_.end()) return AfterRefusal::kGoOn;
  Entry& entry = found->second;
  switch (GetReason(status)) {
    case v1::ERROR_REASON_WORLD_EPOCH_STALE:
      // World dropped what it is about; what is here now was made since, unless it asks for the result of a folded
      // step.
      if (!entry.ticket->answered && entry.encoded.request->step_contribution().world_epoch() < world_.epoch) {
        Resend(found->first, &entry);
      }
      return AfterRefusal::kGoOn;
    case v1::ERROR_REASON_REFERENCE_GRID_MISMATCH:
      // Of counts that were on their way while the server asked for others: another rank had contributed anew.
      return AfterRefusal::kGoOn;
    case v1::ERROR_REASON_STEP_OUT_OF_WINDOW:
      if (const uint64_t expected = ExpectedStep(status); expected > found->first) {
        folded_ = std::max(folded_, expected - 1);
        next_step_ = std::max(next_step_, expected);
        if (!entry.ticket->answered) Answer(&entry, status);
        ForgetDurable();
        return AfterRefusal::kGoOn;
      }
      break;
    case v1::ERROR_REASON_STEP_TIMED_OUT:
      if (entry.ticket->answered) {
        Resend(found->first, &entry);
        return AfterRefusal::kGoOn;
      }
      break;
    default:
      break;
  }
  if (entry.ticket->answered) {
    *reason = absl::DataLossError(absl::StrCat(
        "step ", found->first, " was folded, was lost with the server before it was durable, and is refused now: ",
        status.message(), "; the session's results lack it: collect again in a new session"));
    return AfterRefusal::kEnd;
  }
  Drop(found, status);
  return AfterRefusal::kGoOn;
}

StepLog::AfterRefusal StepLog::RefuseLayers(const absl::Status& status) {
  if (layers_accepted_ >= layers_.size()) return AfterRefusal::kEnd;
  for (auto entry = entries_.begin(); entry != entries_.end();) {
    entry = entry->second.encoded.layers_used > layers_accepted_ ? Drop(entry, status) : std::next(entry);
  }
  layers_.Truncate(layers_accepted_);
  ++layers_refused_;
  layers_refusal_ = status;
  return AfterRefusal::kReopen;
}

void StepLog::Resend(uint64_t step, Entry* entry) {
  entry->sent = false;
  entry->grids = nullptr;
  entry->counts_due = false;
  to_count_.erase(step);
  due_.insert(step);
}

std::shared_ptr<const v1::ObserveRequest> StepLog::NextMessage() {
  if (!HasMessage()) return nullptr;
  if (registered_ < layers_.size()) return NextRegistration();
  const uint64_t step = *due_.begin();
  Entry& entry = entries_.at(step);
  if (!entry.sent) {
    entry.sent = true;
    if (!entry.counts_due) due_.erase(due_.begin());
    v1::StepContribution* const contribution = entry.encoded.request->mutable_step_contribution();
    // Of a folded step the result alone is asked for, which has nothing to do with the world that it was made in.
    if (contribution->world_epoch() != world_.epoch) contribution->set_world_epoch(world_.epoch);
    return entry.encoded.request;
  }
  due_.erase(due_.begin());
  entry.counts_due = false;
  return entry.counts;
}

std::shared_ptr<const v1::ObserveRequest> StepLog::NextRegistration() {
  auto request = std::make_shared<v1::ObserveRequest>();
  v1::RegisterLayers* const registration = request->mutable_register_layers();
  registration->set_first_handle(static_cast<uint32_t>(registered_));
  for (size_t bytes = 0; registered_ < layers_.size() && bytes < kMaxNamesBytes; ++registered_) {
    registration->add_name(layers_.name(registered_));
    bytes += layers_.name(registered_).size() + kNameFieldBytes;
  }
  return request;
}

}  // namespace calib::client
