#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cpp/backoff.h"
#include "client/cpp/status.h"
#include "client/cpp/sync_worker_impl.h"
#include "client/cpp/welcome_config.h"
#include "proto/codec/error.h"

// Writing, and the stream and reading threads of a SyncWorker.
namespace calib::client {
namespace {

// What a write may take whatever its caller's deadline: a short one is no reason to give up a stream that works.
constexpr absl::Duration kWritePatience = absl::Seconds(1);

}  // namespace

void SyncWorkerImpl::Send(absl::Time deadline, const std::stop_token& cancel) {
  if (writing_ || !welcomed_ || StreamIsOver()) return;
  writing_ = true;
  write_deadline_ = std::max(deadline, absl::Now() + kWritePatience);
  if (write_deadline_ < look_after_) {
    look_after_ = write_deadline_;
    stream_wake_.Signal();
  }
  while (!StreamIsOver()) {
    const std::shared_ptr<const v1::ObserveRequest> message = log_.NextMessage();
    if (message == nullptr) break;
    if (!message->has_register_layers()) ++counts_.messages_sent;
    ObserveCall* const call = call_;  // it lives as long as writing_ is set
    mutex_.Unlock();
    bool written;
    {
      const std::stop_callback end(cancel, [call] { call->Cancel(); });
      written = call->Write(*message);
    }
    mutex_.Lock();
    counts_.bytes_sent += message->ByteSizeLong();
    write_failed_ = write_failed_ || !written;
  }
  writing_ = false;
  write_deadline_ = absl::InfiniteFuture();
  if (StreamIsOver() || closing_) stream_wake_.Signal();
}

bool SyncWorkerImpl::Count() {
  const std::optional<StepLog::CountJob> job = log_.TakeCountJob();
  if (!job.has_value()) return false;
  mutex_.Unlock();
  absl::StatusOr<std::shared_ptr<v1::ObserveRequest>> counts = CountStep(*job);
  if (counts.ok() && (*counts)->ByteSizeLong() > options_.max_message_bytes) {
    counts =
        MakeError(v1::ERROR_REASON_REFERENCE_TOO_LARGE,
                  absl::StrCat("the counts of step ", job->grids->step(), " are a message of ",
                               (*counts)->ByteSizeLong(), " bytes, and the server takes ", options_.max_message_bytes,
                               ": give fewer layers with reference histograms, or "
                               "histograms with fewer bins"));
  }
  mutex_.Lock();
  if (!counts.ok()) {
    End(counts.status());
    return true;
  }
  log_.AddCounts(*job, *std::move(counts));
  Send(absl::InfiniteFuture(), std::stop_token());
  return true;
}

void SyncWorkerImpl::OnTicket(StepTicket& ticket) {
  auto& waiting = static_cast<Waiting&>(ticket);
  if (ticket.answered) {
    counts_.steps_answered += ticket.status.ok() ? 1 : 0;
    waiting.answered_or_asked.SignalAll();
  } else if (waiting.waiters > 0) {
    waiting.answered_or_asked.Signal();
  } else {
    stream_wake_.Signal();
  }
}

void SyncWorkerImpl::End(const absl::Status& status) {
  if (!fatal_.ok()) return;
  fatal_ = status;
  log_.EndAll(status);
  stream_wake_.Signal();
  progress_.SignalAll();
}

void SyncWorkerImpl::Run() {
  Backoff backoff(options_.min_backoff, options_.max_backoff);
  while (true) {
    const absl::Status end = RunStream();
    absl::MutexLock lock(&mutex_);
    // A stream that this side gave up says nothing about the next one.
    if (stream_problem_.ok() && !stopping_ && !closing_ && !CanReopenAfter(end)) End(end);
    const bool give_up_at_once = !config_.has_value() && !client_->options().retry_unavailable;
    if (give_up_at_once && !end.ok()) End(end);
    if (stopping_ || closing_ || !fatal_.ok()) break;
    last_stream_end_ = end;
    progress_.SignalAll();
    if (progressed_ || absl::Now() - welcome_time_ >= kSteadyStream) backoff.Reset();
    const absl::Time resume = absl::Now() + backoff.Next();
    while (!stopping_ && !closing_ && absl::Now() < resume) {
      // Counts are of use in the next stream.
      if (!Count()) stream_wake_.WaitWithDeadline(&mutex_, resume);
    }
    if (stopping_ || closing_) break;
    if (config_.has_value()) ++counts_.reconnections;
  }
  absl::MutexLock lock(&mutex_);
  finished_ = true;
  progress_.SignalAll();
}

absl::Status SyncWorkerImpl::RunStream() {
  ObserveCall call(*client_, WaitsForServer());
  {
    absl::MutexLock lock(&mutex_);
    if (stopping_ || closing_) return absl::CancelledError("the worker is closed");
    call_ = &call;
    welcomed_ = false;
    welcome_time_ = absl::InfiniteFuture();
    reader_done_ = false;
    progressed_ = false;
    write_failed_ = false;
    writing_ = true;  // Open, whose Welcome may come before the write has returned
    look_after_ = absl::InfiniteFuture();
    stream_problem_ = absl::OkStatus();
  }
  std::thread reader([this, &call] { ReadResponses(&call); });
  const bool opened = call.Write(OpenRequest());
  bool orderly = false;
  {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    write_failed_ = write_failed_ || !opened;
    ServeStream(absl::Now() + kWelcomeTimeout);
    orderly = closing_ && !abandoning_ && !writing_ && !StreamIsOver();
    // A call that the other side has ended says why, unless it is cancelled.
    if (!orderly && !write_failed_ && !reader_done_) call.Cancel();
    while (writing_) stream_wake_.Wait(&mutex_);
    welcomed_ = false;
  }
  if (orderly) call.WritesDone();
  reader.join();
  const absl::Status end = call.Finish();
  absl::MutexLock lock(&mutex_);
  call_ = nullptr;
  log_.OnStreamEnd();
  return stream_problem_.ok() ? end : stream_problem_;
}

void SyncWorkerImpl::ServeStream(absl::Time welcome_deadline) {
  while (!StreamIsOver()) {
    const absl::Time now = absl::Now();
    if (!welcomed_) {
      if (now >= welcome_deadline) {
        stream_problem_ =
            absl::UnavailableError(absl::StrCat("calibd at ", client_->options().server, " did not answer Open in ",
                                                absl::FormatDuration(kWelcomeTimeout)));
        return;
      }
      stream_wake_.WaitWithDeadline(&mutex_, welcome_deadline);
      continue;
    }
    if (closing_) return;
    if (!writing_ && log_.HasMessage()) {
      Send(absl::InfiniteFuture(), std::stop_token());
      continue;
    }
    if (Count()) continue;
    if (now >= look_after_) {
      if (writing_ && now >= write_deadline_) {
        stream_problem_ = absl::UnavailableError(
            absl::StrCat("calibd at ", client_->options().server, " did not take a message in time"));
        return;
      }
      look_after_ = writing_ ? write_deadline_ : absl::InfiniteFuture();
    }
    stream_wake_.WaitWithDeadline(&mutex_, look_after_);
  }
}

bool SyncWorkerImpl::WaitsForServer() const {
  absl::MutexLock lock(&mutex_);
  return config_.has_value() || !last_stream_end_.ok();
}

v1::ObserveRequest SyncWorkerImpl::OpenRequest() const {
  v1::ObserveRequest request;
  v1::Open* const open = request.mutable_open();
  open->set_session(options_.session);
  open->set_worker_id(options_.worker_id);
  open->set_display_name(options_.display_name);
  open->set_rank(options_.rank);
  return request;
}

void SyncWorkerImpl::ReadResponses(ObserveCall* call) {
  v1::ObserveResponse response;
  bool wanted = true;
  while (call->Read(&response)) {
    // What comes after the stream was given up is of no use; it is read so that the call can finish.
    if (!wanted) continue;
    absl::MutexLock lock(&mutex_);
    wanted = fatal_.ok() && TakeResponse(&response);
    if (!wanted) {
      call->Cancel();
      stream_wake_.Signal();
    }
    progress_.SignalAll();
  }
  absl::MutexLock lock(&mutex_);
  reader_done_ = true;
  stream_wake_.Signal();
}

bool SyncWorkerImpl::TakeResponse(v1::ObserveResponse* response) {
  absl::Status status;
  switch (response->kind_case()) {
    case v1::ObserveResponse::kWelcome:
      status = TakeWelcome(response->welcome());
      break;
    case v1::ObserveResponse::kAck:
      progressed_ = progressed_ || response->ack().durable_step() > log_.durable();
      status = log_.OnAck(response->ack());
      break;
    case v1::ObserveResponse::kStepResult:
      progressed_ = true;
      log_.OnResult(response->mutable_step_result());
      break;
    case v1::ObserveResponse::kStepGrids:
      status = log_.OnGrids(response->step_grids());
      break;
    case v1::ObserveResponse::kWorld:
      log_.OnWorld(response->world());
      break;
    case v1::ObserveResponse::kRefusal:
      switch (log_.OnRefusal(response->refusal(), &status)) {
        case StepLog::AfterRefusal::kGoOn:
          status = absl::OkStatus();
          break;
        case StepLog::AfterRefusal::kReopen:
          stream_problem_ = status;
          return false;
        case StepLog::AfterRefusal::kEnd:
          break;
      }
      break;
    case v1::ObserveResponse::KIND_NOT_SET:
      break;  // from a newer server
  }
  if (!status.ok()) End(status);
  // What has to be sent again, and, when more of it is than a window, what there is room for now.
  if (!writing_ && log_.HasMessage()) stream_wake_.Signal();
  return status.ok();
}

absl::Status SyncWorkerImpl::TakeWelcome(const v1::Welcome& welcome) {
  absl::StatusOr<SessionConfig> config = ConfigOf(welcome, options_.session, config_);
  if (!config.ok()) return config.status();
  if (absl::Status status = log_.OnWelcome(welcome); !status.ok()) return status;
  if (!config->synchronous.has_value()) {
    return MakeError(v1::ERROR_REASON_SESSION_NOT_SYNCHRONOUS,
                     absl::StrCat("session ", options_.session, " has no synchronous steps"));
  }
  if (!config_.has_value()) config_ = *std::move(config);
  welcomed_ = true;
  welcome_time_ = absl::Now();
  stream_wake_.Signal();
  return absl::OkStatus();
}

}  // namespace calib::client
