#include "client/cli/push_run.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "client/cli/command.h"
#include "quant/observe.h"

namespace calib::cli {
namespace {

// What is read at a time: large enough for throughput, small enough to stop soon.
constexpr uint64_t kPieceBytes = 4 << 20;
// Raw data that all ranks together keep until it is durable, and the least of one rank.
constexpr uint64_t kRawBytes = 512 << 20;
constexpr uint64_t kMinRawBytesOfRank = 4 * kPieceBytes;
// Of a layer's name in an error.
constexpr size_t kShownNameBytes = 64;

// A push goes on through a lost connection, from the first moment on.
client::ClientOptions Persistent(client::ClientOptions options) {
  options.retry_unavailable = true;
  return options;
}

}  // namespace

PushRun::PushRun(const client::ClientOptions& client, const PushOptions& options, absl::Span<const PushSource> sources,
                 absl::Span<const PushStep> steps)
    : client_options_(Persistent(client)),
      options_(options),
      sources_(sources),
      steps_(steps),
      raw_window_bytes_(std::max(kMinRawBytesOfRank, kRawBytes / options.ranks)),
      running_(options.ranks),
      workers_(options.ranks) {
  threads_.reserve(options.ranks);
  for (int rank = 0; rank < options.ranks; ++rank) threads_.emplace_back(&PushRun::RunRank, this, rank);
}

PushRun::~PushRun() {
  Stop();
  for (std::thread& thread : threads_) thread.join();
}

bool PushRun::WaitDone(absl::Duration timeout) {
  absl::MutexLock lock(&mutex_);
  const auto done = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return running_ == 0; };
  return mutex_.AwaitWithTimeout(absl::Condition(&done), timeout);
}

absl::Status PushRun::status() const {
  absl::MutexLock lock(&mutex_);
  return status_;
}

PushRun::Totals PushRun::totals() const {
  absl::MutexLock lock(&mutex_);
  Totals totals = totals_;
  totals.values = values_;
  totals.bytes = bytes_;
  return totals;
}

uint64_t PushRun::done_bytes() const {
  const uint64_t bytes = bytes_;
  if (!options_.raw) return bytes;
  absl::MutexLock lock(&mutex_);
  uint64_t pending = 0;
  for (const client::Worker* worker : workers_) pending += worker == nullptr ? 0 : worker->stats().pending_bytes;
  return bytes - std::min(bytes, pending);
}

void PushRun::SetWorker(int rank, client::Worker* worker) {
  absl::MutexLock lock(&mutex_);
  workers_[rank] = worker;
}

void PushRun::RunRank(int rank) {
  client::WorkerOptions options;
  options.session = options_.session;
  options.display_name = absl::StrCat("calibctl push, rank ", rank, " of ", options_.ranks);
  options.raw_window_bytes = raw_window_bytes_;
  auto worker = client::Worker::Open(std::make_shared<client::Client>(client_options_), options, options_.timeout);
  absl::Status status = worker.status();
  client::Worker::Stats stats;
  if (status.ok()) {
    SetWorker(rank, worker->get());
    status = PushSteps(rank, worker->get());
    if (!status.ok()) Stop();
    // Also after an error: what was pushed becomes durable, so that the session has whole updates of every rank.
    absl::Status finished = WaitDurable(worker->get());
    if (finished.ok()) finished = (*worker)->Close(options_.timeout);
    status.Update(finished);
    stats = (*worker)->stats();
    SetWorker(rank, nullptr);
  }
  if (!status.ok()) Stop();
  absl::MutexLock lock(&mutex_);
  status_.Update(status);
  totals_.values_ignored += stats.values_ignored;
  totals_.bytes_sent += stats.bytes_sent;
  totals_.reconnections += stats.reconnections;
  --running_;
}

absl::Status PushRun::PushSteps(int rank, client::Worker* worker) {
  std::vector<uint8_t> buffer;
  for (const PushStep& step : steps_) {
    if (stopping_) return absl::OkStatus();
    const PushSource& source = sources_[step.source];
    const absl::Status status = PushPart(source, step, PartOfStep(source, options_.ranks, rank), &buffer, worker);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status PushRun::PushPart(const PushSource& source, const PushStep& step, const ElementRun& part,
                               std::vector<uint8_t>* buffer, client::Worker* worker) {
  const uint64_t element_bytes = ElementSize(source.file.type());
  const uint64_t piece_elements =
      source.whole_steps ? std::max<uint64_t>(1, source.step_elements) : kPieceBytes / element_bytes;
  for (uint64_t begin = part.begin; begin < part.end && !stopping_; begin += piece_elements) {
    const uint64_t elements = std::min(piece_elements, part.end - begin);
    buffer->resize(elements * element_bytes);
    absl::Status status = source.file.Read(step.index * source.step_elements + begin, absl::MakeSpan(*buffer));
    if (!status.ok()) return status;
    // SendRaw would wait for a server that is away for ever.
    if (options_.raw && worker->stats().pending_bytes + buffer->size() > raw_window_bytes_) {
      status = WaitDurable(worker);
      if (!status.ok()) return status;
    }
    const TensorView view{source.file.type(), source.step_shape, begin, *buffer};
    status = options_.raw ? worker->SendRaw(source.layer, view) : worker->Observe(source.layer, view);
    if (!status.ok()) {
      return Annotate(status, absl::StrCat("step ", step.index, " of ", source.file.path(), " as layer '",
                                           source.layer.substr(0, kShownNameBytes), "'"));
    }
    // A refusal comes later than its cause, so it speaks for itself.
    status = worker->status();
    if (!status.ok()) return status;
    values_ += elements;
    bytes_ += buffer->size();
  }
  return absl::OkStatus();
}

absl::Status PushRun::WaitDurable(client::Worker* worker) const {
  uint64_t before = worker->stats().durable;
  for (;;) {
    const absl::Status status = worker->Flush(options_.timeout);
    if (!absl::IsDeadlineExceeded(status)) return status;
    const uint64_t after = worker->stats().durable;
    if (after == before) {
      return absl::UnavailableError(
          absl::StrCat("no progress for ", absl::FormatDuration(options_.timeout), ": ", status.message()));
    }
    before = after;
  }
}

}  // namespace calib::cli
