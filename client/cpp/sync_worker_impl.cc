#include "client/cpp/sync_worker_impl.h"

#include <algorithm>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cpp/durability.h"
#include "proto/codec/error.h"

// What callers do. sync_worker_stream.cc has the other threads.
namespace calib::client {
namespace {

SyncWorkerOptions SaneOptions(SyncWorkerOptions options) {
  options.min_backoff = std::max(options.min_backoff, absl::Milliseconds(1));
  options.max_backoff = std::max(options.max_backoff, options.min_backoff);
  return options;
}

absl::Status ClosedError() { return absl::FailedPreconditionError("the worker is closed; open another one"); }

}  // namespace

SyncWorkerImpl::SyncWorkerImpl(std::shared_ptr<Client> client, const SyncWorkerOptions& options)
    : client_(std::move(client)), options_(SaneOptions(options)), log_(options.rank, [this](StepTicket& ticket) {
        mutex_.AssertHeld();
        OnTicket(ticket);
      }) {
  stream_thread_ = std::thread([this] { Run(); });
}

SyncWorkerImpl::~SyncWorkerImpl() { Stop(); }

void SyncWorkerImpl::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    if (call_ != nullptr) call_->Cancel();
    log_.EndAll(fatal_.ok() ? ClosedError() : fatal_);
    stream_wake_.Signal();
    progress_.SignalAll();
  }
  if (stream_thread_.joinable()) stream_thread_.join();
}

absl::Status SyncWorkerImpl::Usable() const {
  if (!fatal_.ok()) return fatal_;
  return closing_ || stopping_ ? ClosedError() : absl::OkStatus();
}

absl::Status SyncWorkerImpl::WaitUntilOpen(absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  while (!config_.has_value() && fatal_.ok()) {
    if (absl::Now() < deadline) {
      progress_.WaitWithDeadline(&mutex_, deadline);
    } else if (!last_stream_end_.ok()) {
      return last_stream_end_;
    } else {
      return absl::UnavailableError(
          absl::StrCat("cannot reach calibd at ", client_->options().server, ": no answer in time"));
    }
  }
  if (!fatal_.ok()) return fatal_;
  // Else a restarted server could ask for steps of an earlier process, which nobody has.
  const auto mark = [this] {
    mutex_.AssertHeld();
    return log_.IsSettled() ? 0 : log_.folded();
  };
  return WaitUntilDurable(mark, deadline);
}

absl::Status SyncWorkerImpl::TakeNews(const StepOptions& options) {
  absl::Status news = log_.news(/*any_error=*/options.step == 0);
  if (!news.ok()) log_.TakeNews();
  return news;
}

absl::Status SyncWorkerImpl::FindLayers(absl::Span<const StepLayer> layers, Infos* infos) {
  infos->reserve(layers.size());
  for (const StepLayer& layer : layers) {
    absl::StatusOr<std::shared_ptr<const StepLayerInfo>> info = log_.layers().Find(layer.name, config_->rules);
    if (!info.ok()) return info.status();
    infos->push_back(*std::move(info));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<StepTicket>> SyncWorkerImpl::FindTicket(uint64_t step, const Infos& infos) const {
  std::shared_ptr<StepTicket> ticket = log_.Find(step);
  if (ticket == nullptr || ticket->layers == infos) return ticket;
  return MakeError(
      v1::ERROR_REASON_INVALID_FIELD,
      absl::StrCat("step ", step, " was contributed to with other layers; pass the same ones to wait for it"),
      {{"step", absl::StrCat(step)}});
}

absl::StatusOr<std::shared_ptr<StepTicket>> SyncWorkerImpl::Start(absl::Span<const StepLayer> layers,
                                                                  const StepOptions& options) {
  // Made before a lock is taken and gone after it is let go: it may run at once, and its end waits for it.
  const std::stop_callback wake(options.cancel, [this] {
    absl::MutexLock lock(&mutex_);
    progress_.SignalAll();
  });
  Beginning beginning;
  {
    absl::MutexLock lock(&mutex_);
    if (absl::Status status = Usable(); !status.ok()) return status;
    if (absl::Status status = FindLayers(layers, &beginning.infos); !status.ok()) return status;
    if (options.step != 0) {
      absl::StatusOr<std::shared_ptr<StepTicket>> ticket = FindTicket(options.step, beginning.infos);
      if (!ticket.ok() || *ticket != nullptr) return ticket;
    }
    if (absl::Status status = TakeNews(options); !status.ok()) return status;
    beginning.world = log_.world();
    beginning.layers_refused = log_.layers_refused();
    if (!idle_encoders_.empty()) {
      beginning.encoder = std::move(idle_encoders_.back());
      idle_encoders_.pop_back();
    }
  }
  if (beginning.encoder == nullptr) beginning.encoder = std::make_unique<StepEncoder>();
  absl::StatusOr<EncodedStep> encoded = beginning.encoder->Encode(layers, beginning.infos, options.gradient_weight);
  const uint64_t values = beginning.encoder->values();
  if (encoded.ok() && encoded->request->ByteSizeLong() > options_.max_message_bytes) {
    encoded = MakeError(v1::ERROR_REASON_LIMIT_EXCEEDED,
                        absl::StrCat("the step is a message of ", encoded->request->ByteSizeLong(),
                                     " bytes, and the server takes ", options_.max_message_bytes,
                                     ": give fewer layers, or raise --max-message-bytes of the server and "
                                     "max_message_bytes here"),
                        {{"option", "--max-message-bytes"}, {"limit", absl::StrCat(options_.max_message_bytes)}});
  }

  absl::MutexLock lock(&mutex_);
  idle_encoders_.push_back(std::move(beginning.encoder));
  if (!encoded.ok()) return encoded.status();
  const absl::StatusOr<uint64_t> step = WaitForRoom(beginning, encoded->bytes, options);
  if (!step.ok()) return step.status();
  // Another thread may have come first with the same number.
  absl::StatusOr<std::shared_ptr<StepTicket>> earlier = FindTicket(*step, beginning.infos);
  if (!earlier.ok() || *earlier != nullptr) return earlier;
  const auto ticket = std::make_shared<Waiting>();
  ticket->layers = std::move(beginning.infos);
  ticket->layout = std::move(encoded->layout);
  log_.Add(*step, *std::move(encoded), ticket);
  ++counts_.steps_contributed;
  counts_.values_observed += values;
  Send(options.deadline, options.cancel);
  return ticket;
}

absl::StatusOr<uint64_t> SyncWorkerImpl::WaitForRoom(const Beginning& beginning, size_t bytes,
                                                     const StepOptions& options) {
  absl::Time next_request = absl::InfinitePast();
  while (true) {
    if (absl::Status status = Usable(); !status.ok()) return status;
    if (absl::Status status = TakeNews(options); !status.ok()) return status;
    if (log_.world() != beginning.world) {
      return MakeError(v1::ERROR_REASON_WORLD_EPOCH_STALE, "the world changed while the step was made: make it anew",
                       {{"world_epoch", absl::StrCat(log_.world().epoch)}});
    }
    if (log_.layers_refused() != beginning.layers_refused) return log_.layers_refusal();
    const uint64_t step = options.step == 0 ? log_.next_step() : options.step;
    const bool in_window = log_.IsInWindow(step);
    const bool fits = log_.empty() || log_.kept_bytes() + bytes <= options_.kept_bytes;
    if (in_window && fits) return step;
    if (options.cancel.stop_requested()) return absl::CancelledError("cancelled; nothing was contributed");
    if (absl::Now() >= options.deadline) {
      return absl::DeadlineExceededError(
          absl::StrCat("no room for step ", step, " in time: ",
                       in_window ? "too much is kept that is not durable"
                                 : absl::StrCat("step ", log_.folded(), " is the last folded"),
                       last_stream_end_.ok() ? "" : "; last broken stream: ", last_stream_end_.message()));
    }
    if (in_window && log_.durable() < log_.folded()) {
      AwaitDurability(*client_, options_.session, options.deadline, &mutex_, &progress_, &next_request);
    } else {
      progress_.WaitWithDeadline(&mutex_, options.deadline);
    }
  }
}

absl::Status SyncWorkerImpl::WaitUntilDurable(absl::FunctionRef<uint64_t()> mark, absl::Time deadline) {
  absl::Time next_request = absl::InfinitePast();
  while (log_.durable() < mark()) {
    if (!fatal_.ok()) return fatal_;
    if (absl::Now() >= deadline) {
      return absl::DeadlineExceededError(absl::StrCat(
          "steps ", log_.durable() + 1, " to ", mark(), " are not durable yet at calibd at ", client_->options().server,
          last_stream_end_.ok() ? "" : "; last broken stream: ", last_stream_end_.message()));
    }
    if (log_.folded() >= mark()) {
      AwaitDurability(*client_, options_.session, deadline, &mutex_, &progress_, &next_request);
    } else {
      progress_.WaitWithDeadline(&mutex_, deadline);
    }
  }
  return fatal_;
}

absl::StatusOr<StepResult> SyncWorkerImpl::Wait(StepTicket* ticket, absl::Time deadline, std::stop_token cancel) {
  auto* const waiting = static_cast<Waiting*>(ticket);
  const std::stop_callback wake(cancel, [this, waiting] {
    absl::MutexLock lock(&mutex_);
    waiting->answered_or_asked.SignalAll();
  });
  {
    absl::MutexLock lock(&mutex_);
    ++waiting->waiters;
    bool late = false;
    while (!waiting->answered) {
      if (Count()) continue;
      if (late || cancel.stop_requested()) break;
      late = waiting->answered_or_asked.WaitWithDeadline(&mutex_, deadline);
    }
    --waiting->waiters;
    if (!waiting->answered) {
      if (log_.HasCountJob()) stream_wake_.Signal();
      if (!late) return absl::CancelledError("cancelled; the contribution stays");
      return absl::DeadlineExceededError(
          absl::StrCat("step ", waiting->step, " is not folded yet by calibd at ", client_->options().server,
                       last_stream_end_.ok() ? "" : "; last broken stream: ", last_stream_end_.message()));
    }
    if (!waiting->status.ok()) {
      log_.TakeNews();
      return waiting->status;
    }
  }
  // What is answered does not change any more.
  return DecodeStepResult(waiting->result, waiting->layout);
}

bool SyncWorkerImpl::IsAnswered(const StepTicket& ticket) const {
  absl::MutexLock lock(&mutex_);
  return ticket.answered;
}

absl::Status SyncWorkerImpl::Flush(absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  if (absl::Status status = Usable(); !status.ok()) return status;
  const uint64_t mark = log_.folded();
  return WaitUntilDurable([mark] { return mark; }, deadline);
}

absl::Status SyncWorkerImpl::Close(absl::Time deadline) {
  absl::Status flushed = Flush(deadline);
  absl::MutexLock lock(&mutex_);
  if (closing_ || (fatal_.ok() && absl::IsDeadlineExceeded(flushed))) return flushed;
  closing_ = true;
  // What is open has no answer to wait for: it is the next worker of this rank that gets it.
  abandoning_ = log_.HasOpen();
  log_.EndAll(ClosedError());
  if (call_ != nullptr && !welcomed_) call_->Cancel();  // it may wait for a server that is away
  stream_wake_.Signal();
  progress_.SignalAll();
  while (!finished_ && absl::Now() < deadline) progress_.WaitWithDeadline(&mutex_, deadline);
  return flushed;
}

uint64_t SyncWorkerImpl::next_step() const {
  absl::MutexLock lock(&mutex_);
  return log_.next_step();
}

StepWorld SyncWorkerImpl::world() {
  absl::MutexLock lock(&mutex_);
  log_.TakeWorldNews();
  return log_.world();
}

absl::Status SyncWorkerImpl::status() const {
  absl::MutexLock lock(&mutex_);
  return fatal_;
}

const SessionConfig& SyncWorkerImpl::config() const {
  absl::MutexLock lock(&mutex_);
  return *config_;
}

SyncWorker::Stats SyncWorkerImpl::stats() const {
  absl::MutexLock lock(&mutex_);
  SyncWorker::Stats stats = counts_;
  stats.folded_step = log_.folded();
  stats.durable_step = log_.durable();
  stats.kept_bytes = log_.kept_bytes();
  return stats;
}

}  // namespace calib::client
