#include "client/cpp/worker.h"

#include <utility>

#include "absl/time/clock.h"
#include "client/cpp/worker_id.h"
#include "client/cpp/worker_impl.h"

namespace calib::client {
namespace {

// How long the destructor tries to make everything durable.
constexpr absl::Duration kDestructorTimeout = absl::Seconds(1);

}  // namespace

absl::StatusOr<std::unique_ptr<Worker>> Worker::Open(std::shared_ptr<Client> client, const WorkerOptions& options,
                                                     absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  WorkerOptions with_id = options;
  if (with_id.worker_id.empty()) with_id.worker_id = MakeWorkerId();
  auto impl = std::make_unique<Impl>(std::move(client), with_id);
  if (absl::Status status = impl->WaitUntilOpen(deadline); !status.ok()) return status;
  return std::unique_ptr<Worker>(new Worker(std::move(impl)));
}

Worker::Worker(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Worker::~Worker() { Close(kDestructorTimeout).IgnoreError(); }

absl::Status Worker::Observe(absl::string_view layer, const TensorView& tensor) {
  return impl_->Observe(layer, tensor);
}

absl::Status Worker::SendRaw(absl::string_view layer, const TensorView& tensor) {
  return impl_->SendRaw(layer, tensor);
}

absl::Status Worker::Flush(absl::Duration timeout) { return impl_->Flush(absl::Now() + timeout); }

absl::Status Worker::Close(absl::Duration timeout) { return impl_->Close(absl::Now() + timeout); }

const SessionConfig& Worker::config() const { return impl_->config(); }

absl::Status Worker::status() const { return impl_->status(); }

Worker::Stats Worker::stats() const { return impl_->stats(); }

const std::string& Worker::worker_id() const { return impl_->worker_id(); }

}  // namespace calib::client
