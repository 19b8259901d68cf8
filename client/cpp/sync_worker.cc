#include "client/cpp/sync_worker.h"

#include <utility>

#include "absl/time/clock.h"
#include "client/cpp/sync_worker_impl.h"
#include "client/cpp/worker_id.h"

namespace calib::client {
namespace {

// How long the destructor tries to make everything durable.
constexpr absl::Duration kLastFlush = absl::Seconds(1);

}  // namespace

PendingStep::PendingStep(std::shared_ptr<SyncWorkerImpl> worker, std::shared_ptr<StepTicket> ticket)
    : worker_(std::move(worker)), ticket_(std::move(ticket)) {}
PendingStep::PendingStep(PendingStep&&) noexcept = default;
PendingStep& PendingStep::operator=(PendingStep&&) noexcept = default;
PendingStep::~PendingStep() = default;

uint64_t PendingStep::step() const { return ticket_->step; }

bool PendingStep::ready() const { return worker_->IsAnswered(*ticket_); }

absl::StatusOr<StepResult> PendingStep::Wait(absl::Time deadline, std::stop_token cancel) {
  return worker_->Wait(ticket_.get(), deadline, std::move(cancel));
}

absl::StatusOr<std::unique_ptr<SyncWorker>> SyncWorker::Open(std::shared_ptr<Client> client,
                                                             const SyncWorkerOptions& options, absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  SyncWorkerOptions with_id = options;
  if (with_id.worker_id.empty()) with_id.worker_id = MakeWorkerId();
  auto impl = std::make_shared<SyncWorkerImpl>(std::move(client), with_id);
  if (absl::Status status = impl->WaitUntilOpen(deadline); !status.ok()) return status;
  return std::unique_ptr<SyncWorker>(new SyncWorker(std::move(impl)));
}

SyncWorker::SyncWorker(std::shared_ptr<SyncWorkerImpl> impl) : impl_(std::move(impl)) {}

SyncWorker::~SyncWorker() {
  impl_->Close(absl::Now() + kLastFlush).IgnoreError();
  // Steps that are pending may outlive this, the threads may not.
  impl_->Stop();
}

absl::StatusOr<StepResult> SyncWorker::Step(absl::Span<const StepLayer> layers, const StepOptions& options) {
  const absl::StatusOr<std::shared_ptr<StepTicket>> ticket = impl_->Start(layers, options);
  if (!ticket.ok()) return ticket.status();
  return impl_->Wait(ticket->get(), options.deadline, options.cancel);
}

absl::StatusOr<PendingStep> SyncWorker::StartStep(absl::Span<const StepLayer> layers, const StepOptions& options) {
  absl::StatusOr<std::shared_ptr<StepTicket>> ticket = impl_->Start(layers, options);
  if (!ticket.ok()) return ticket.status();
  return PendingStep(impl_, *std::move(ticket));
}

uint64_t SyncWorker::next_step() const { return impl_->next_step(); }

StepWorld SyncWorker::world() const { return impl_->world(); }

const SessionConfig& SyncWorker::config() const { return impl_->config(); }

const std::string& SyncWorker::worker_id() const { return impl_->worker_id(); }

absl::Status SyncWorker::Flush(absl::Duration timeout) { return impl_->Flush(absl::Now() + timeout); }

absl::Status SyncWorker::Close(absl::Duration timeout) { return impl_->Close(absl::Now() + timeout); }

absl::Status SyncWorker::status() const { return impl_->status(); }

SyncWorker::Stats SyncWorker::stats() const { return impl_->stats(); }

}  // namespace calib::client
