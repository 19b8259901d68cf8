#include "client/cli/sync_push_run.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cli/command.h"
#include "client/cli/synchronous_view.h"
#include "proto/codec/error.h"

namespace calib::cli {
namespace {

client::ClientOptions Patient(client::ClientOptions options) {
  options.retry_unavailable = true;
  return options;
}

uint64_t MostSteps(absl::Span<const PushSource> sources) {
  uint64_t steps = 0;
  for (const PushSource& source : sources) steps = std::max(steps, source.steps);
  return steps;
}

uint64_t PartBytes(const PushSource& source, uint32_t ranks, uint32_t rank) {
  const ElementRun part = PartOfStep(source, static_cast<int>(ranks), static_cast<int>(rank));
  return (part.end - part.begin) * ElementSize(source.file.type());
}

uint64_t TotalBytes(const SyncPushOptions& options, absl::Span<const PushSource> sources) {
  uint64_t bytes = 0;
  for (const PushSource& source : sources) {
    for (const uint32_t rank : options.own_ranks) bytes += source.steps * PartBytes(source, options.ranks, rank);
  }
  return bytes;
}

}  // namespace

SyncPushRun::SyncPushRun(const client::ClientOptions& client, const SyncPushOptions& options,
                         absl::Span<const PushSource> sources)
    : client_options_(Patient(client)),
      options_(options),
      sources_(sources),
      steps_(MostSteps(sources)),
      total_bytes_(TotalBytes(options, sources)),
      running_(options.own_ranks.size()) {
  threads_.reserve(options.own_ranks.size());
  for (const uint32_t rank : options.own_ranks) threads_.emplace_back(&SyncPushRun::RunRank, this, rank);
}

SyncPushRun::~SyncPushRun() {
  Stop();
  for (std::thread& thread : threads_) thread.join();
}

bool SyncPushRun::WaitDone(absl::Duration timeout) {
  absl::MutexLock lock(&mutex_);
  const auto done = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return running_ == 0; };
  return mutex_.AwaitWithTimeout(absl::Condition(&done), timeout);
}

absl::Status SyncPushRun::status() const {
  absl::MutexLock lock(&mutex_);
  return status_;
}

SyncPushRun::Totals SyncPushRun::totals() const {
  absl::MutexLock lock(&mutex_);
  return totals_;
}

void SyncPushRun::RunRank(uint32_t rank) {
  client::SyncWorkerOptions options;
  options.session = options_.session;
  options.rank = rank;
  options.display_name = absl::StrCat("calibctl push --sync, rank ", rank, " of ", options_.ranks);
  auto worker = client::SyncWorker::Open(std::make_shared<client::Client>(client_options_), options, options_.timeout);
  absl::Status status = worker.status();
  client::SyncWorker::Stats stats;
  if (status.ok()) {
    status = PushSteps(rank, worker->get());
    if (!status.ok()) Stop();
    // Also after an error: what is folded becomes durable.
    status.Update((*worker)->Close(options_.timeout));
    stats = (*worker)->stats();
  }
  if (!status.ok()) Stop();
  absl::MutexLock lock(&mutex_);
  status_.Update(status);
  totals_.bytes_sent += stats.bytes_sent;
  totals_.reconnections += stats.reconnections;
  --running_;
}

uint64_t SyncPushRun::BytesOfStep(uint32_t rank, uint64_t step) const {
  uint64_t bytes = 0;
  for (const PushSource& source : sources_) {
    if (step <= source.steps) bytes += PartBytes(source, options_.ranks, rank);
  }
  return bytes;
}

absl::Status SyncPushRun::PushSteps(uint32_t rank, client::SyncWorker* worker) {
  uint64_t next = 1;
  absl::Time deadline = absl::Now() + options_.timeout;
  while (!stop_.stop_requested()) {
    // The session may be further than this process, and it may go back, when its world changes.
    const uint64_t step = worker->next_step();
    for (; next < step && next <= steps_; ++next) {
      done_bytes_ += BytesOfStep(rank, next);
      deadline = absl::Now() + options_.timeout;
    }
    for (; next > step; --next) done_bytes_ -= BytesOfStep(rank, next - 1);
    if (step > steps_) break;
    const absl::Status status = PushStep(rank, step, deadline, worker);
    if (!status.ok()) {
      if (stop_.stop_requested() && absl::IsCancelled(status)) break;
      return Annotate(status, absl::StrCat("step ", step, ", rank ", rank));
    }
  }
  return absl::OkStatus();
}

absl::Status SyncPushRun::PushStep(uint32_t rank, uint64_t step, absl::Time deadline, client::SyncWorker* worker) {
  std::vector<std::vector<uint8_t>> buffers(sources_.size());
  std::vector<client::StepLayer> layers;
  uint64_t values = 0, bytes = 0;
  for (size_t i = 0; i < sources_.size(); ++i) {
    const PushSource& source = sources_[i];
    if (step > source.steps) continue;
    const ElementRun part = PartOfStep(source, static_cast<int>(options_.ranks), static_cast<int>(rank));
    buffers[i].resize(PartBytes(source, options_.ranks, rank));
    const absl::Status read =
        source.file.Read((step - 1) * source.step_elements + part.begin, absl::MakeSpan(buffers[i]));
    if (!read.ok()) return read;
    layers.push_back({source.layer, TensorView{source.file.type(), source.step_shape, part.begin, buffers[i]}});
    values += part.end - part.begin;
    bytes += buffers[i].size();
  }
  client::StepOptions options;
  options.step = step;
  options.deadline = deadline;
  options.cancel = stop_.get_token();
  const absl::StatusOr<client::StepResult> result = worker->Step(layers, options);
  if (result.ok()) {
    absl::MutexLock lock(&mutex_);
    totals_.first_step = totals_.first_step == 0 ? step : std::min(totals_.first_step, step);
    totals_.last_step = std::max(totals_.last_step, step);
    totals_.values += values;
    totals_.bytes += bytes;
    totals_.not_counted += result->counted ? 0 : 1;
    return absl::OkStatus();
  }
  switch (GetReason(result.status())) {
    case v1::ERROR_REASON_STEP_TIMED_OUT:
      return result.status();  // which names who is missing; the policy is to fail
    case v1::ERROR_REASON_STEP_OUT_OF_WINDOW:
      return absl::OkStatus();  // it was folded without this rank
    case v1::ERROR_REASON_WORLD_EPOCH_STALE:
      if (const client::StepWorld world = worker->world(); world.size != options_.ranks) {
        return absl::FailedPreconditionError(absl::StrCat(
            "the world has ", world.size, " ranks now (epoch ", world.epoch, ") and the steps are split over ",
            options_.ranks, ": push again with --ranks ", world.size, ", which goes on where the session is"));
      }
      return absl::OkStatus();
    default:
      return absl::IsDeadlineExceeded(result.status()) ? NameMissing(result.status()) : result.status();
  }
}

absl::Status SyncPushRun::NameMissing(const absl::Status& status) const {
  v1::GetSessionRequest request;
  request.set_session(options_.session);
  request.set_page_size(1);
  client::ClientOptions options = client_options_;
  options.retry_unavailable = false;
  const auto response = client::Client(options).GetSession(request);
  const std::string missing = response.ok() ? MissingRanks(response->session().synchronous()) : "";
  return Annotate(status, absl::StrCat("no progress for ", absl::FormatDuration(options_.timeout),
                                       missing.empty() ? "" : ", waiting for ", missing));
}

}  // namespace calib::cli
