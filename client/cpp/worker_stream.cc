#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cpp/backoff.h"
#include "client/cpp/welcome_config.h"
#include "client/cpp/worker_impl.h"

// The stream and reading threads of a Worker.
namespace calib::client {
void Worker::Impl::Run() {
  Backoff backoff(options_.min_backoff, options_.max_backoff);
  while (true) {
    const absl::Status end = RunStream();
    absl::MutexLock lock(&mutex_);
    // A stream that this side gave up says nothing about the next one.
    if (fatal_.ok() && stream_problem_.ok() && !CanReopenAfter(end)) fatal_ = end;
    const bool give_up_at_once = !config_.has_value() && !client_->options().retry_unavailable;
    if (fatal_.ok() && give_up_at_once && !end.ok()) fatal_ = end;
    if (stopping_ || closing_ || !fatal_.ok()) break;
    last_stream_end_ = end;
    progress_.SignalAll();
    if (progressed_ || absl::Now() - welcome_time_ >= kSteadyStream) backoff.Reset();
    const absl::Time resume = absl::Now() + backoff.Next();
    while (!stopping_ && !closing_ && absl::Now() < resume) writer_wake_.WaitWithDeadline(&mutex_, resume);
    if (stopping_ || closing_) break;
    if (config_.has_value()) ++counts_.reconnections;
  }
  absl::MutexLock lock(&mutex_);
  finished_ = true;
  progress_.SignalAll();
}

absl::Status Worker::Impl::RunStream() {
  ObserveCall call(*client_, WaitsForServer());
  {
    absl::MutexLock lock(&mutex_);
    if (stopping_ || closing_) return absl::CancelledError("the worker is closed");
    call_ = &call;
    welcomed_ = false;
    welcome_time_ = absl::InfiniteFuture();
    reader_done_ = false;
    progressed_ = false;
    values_ignored_ = 0;
    stream_problem_ = absl::OkStatus();
  }
  std::thread reader([this, &call] { ReadResponses(&call); });
  bool writable = call.Write(OpenRequest());
  const absl::Time welcome_deadline = absl::Now() + kWelcomeTimeout;
  while (writable) {
    std::shared_ptr<const v1::ObserveRequest> message;
    {
      absl::MutexLock lock(&mutex_);
      message = NextMessage(welcome_deadline);
      if (message == nullptr) {
        if (!stream_problem_.ok()) call.Cancel();
        break;
      }
      if (message->has_update()) ++counts_.messages_sent;
      counts_.bytes_sent += message->ByteSizeLong();
    }
    writable = call.Write(*message);
  }
  if (writable) call.WritesDone();
  reader.join();
  const absl::Status end = call.Finish();
  absl::MutexLock lock(&mutex_);
  call_ = nullptr;
  outbox_.OnStreamEnd();
  counts_.values_ignored += values_ignored_;
  values_ignored_ = 0;
  return stream_problem_.ok() ? end : stream_problem_;
}

std::shared_ptr<const v1::ObserveRequest> Worker::Impl::NextMessage(absl::Time welcome_deadline) {
  while (!WritingIsOver()) {
    if (!welcomed_) {
      if (absl::Now() >= welcome_deadline) {
        stream_problem_ =
            absl::UnavailableError(absl::StrCat("calibd at ", client_->options().server, " did not answer Open in ",
                                                absl::FormatDuration(kWelcomeTimeout)));
        return nullptr;
      }
      writer_wake_.WaitWithDeadline(&mutex_, welcome_deadline);
      continue;
    }
    const absl::Time now = absl::Now();
    const uint64_t rounds = outbox_.rounds_begun();
    auto message = outbox_.NextMessage(flushing_ > 0 || closing_ || now >= next_round_);
    if (outbox_.rounds_begun() != rounds) next_round_ = now + options_.send_interval;
    if (message != nullptr) return message;
    if (closing_) return nullptr;
    writer_wake_.WaitWithDeadline(&mutex_, outbox_.HasRoundWaiting() ? next_round_ : absl::InfiniteFuture());
  }
  return nullptr;
}

bool Worker::Impl::WaitsForServer() const {
  absl::MutexLock lock(&mutex_);
  return config_.has_value() || !last_stream_end_.ok();
}

v1::ObserveRequest Worker::Impl::OpenRequest() {
  v1::ObserveRequest request;
  v1::Open* const open = request.mutable_open();
  open->set_session(options_.session);
  open->set_worker_id(options_.worker_id);
  open->set_display_name(options_.display_name);
  absl::MutexLock lock(&mutex_);
  open->set_durable(outbox_.durable());
  return request;
}

void Worker::Impl::ReadResponses(ObserveCall* call) {
  v1::ObserveResponse response;
  bool wanted = true;
  while (call->Read(&response)) {
    // What comes after the stream was given up is of no use; it is read so that the call can finish.
    if (!wanted) continue;
    absl::MutexLock lock(&mutex_);
    wanted = TakeResponse(response);
    if (!wanted) call->Cancel();
    progress_.SignalAll();
    WakeWriter();
  }
  absl::MutexLock lock(&mutex_);
  reader_done_ = true;
  WakeWriter();
}

bool Worker::Impl::TakeResponse(const v1::ObserveResponse& response) {
  absl::Status status;
  switch (response.kind_case()) {
    case v1::ObserveResponse::kWelcome:
      status = TakeWelcome(response.welcome());
      break;
    case v1::ObserveResponse::kAck:
      progressed_ =
          progressed_ || response.ack().applied() > outbox_.applied() || response.ack().durable() > outbox_.durable();
      values_ignored_ = response.ack().values_ignored();
      status = outbox_.OnAck(response.ack());
      break;
    case v1::ObserveResponse::kRefusal:
      return TakeRefusal(response.refusal());
    case v1::ObserveResponse::kStepGrids:
    case v1::ObserveResponse::kStepResult:
    case v1::ObserveResponse::kWorld:
      break;  // of synchronous steps, which this stream has no part in
    case v1::ObserveResponse::KIND_NOT_SET:
      break;  // from a newer server
  }
  if (!status.ok()) fatal_ = status;
  return status.ok();
}

absl::Status Worker::Impl::TakeWelcome(const v1::Welcome& welcome) {
  absl::StatusOr<SessionConfig> config = ConfigOf(welcome, options_.session, config_);
  if (!config.ok()) return config.status();
  if (absl::Status status = outbox_.OnWelcome(welcome); !status.ok()) return status;
  if (!config_.has_value()) config_ = *std::move(config);
  welcomed_ = true;
  welcome_time_ = absl::Now();
  return absl::OkStatus();
}

bool Worker::Impl::TakeRefusal(const v1::Refusal& refusal) {
  const absl::Status status = FromRefusal(refusal);
  if (outbox_.OnRefusal(refusal) == RefusalMeaning::kWorkerEnds) {
    fatal_ = status;
  } else {
    stream_problem_ = status;
  }
  return false;
}

}  // namespace calib::client
