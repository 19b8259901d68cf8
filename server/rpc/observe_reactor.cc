#include "server/rpc/observe_reactor.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "proto/codec/error.h"
#include "server/rpc/method.h"
#include "server/rpc/status_grpc.h"

namespace calib::server {
namespace {

// About what a message takes: its bytes, and the objects that its smallest entries become.
size_t MemoryOf(const v1::ObserveRequest& request) {
  const v1::StatisticsBatch& batch =
      request.has_step_contribution() ? request.step_contribution().statistics() : request.update().statistics();
  return request.ByteSizeLong() + static_cast<size_t>(batch.histogram_size()) * sizeof(v1::Bfloat16Histogram) +
         static_cast<size_t>(request.step_counts().count_size()) * sizeof(v1::StepCount) +
         // A count of one byte becomes eight.
         (request.has_step_counts() ? 7 * request.ByteSizeLong() : 0) +
         static_cast<size_t>(request.register_layers().name_size()) * sizeof(std::string);
}

}  // namespace

ObserveReactor::ObserveReactor(const ObserveContext& context) : context_(context) {
  for (Buffer& buffer : buffers_) free_.push_back(&buffer);
}

ObserveReactor* ObserveReactor::Start(const ObserveContext& context) {
  const std::shared_ptr<ObserveReactor> reactor(new ObserveReactor(context));
  MutexLock lock(&reactor->mutex_);
  reactor->self_ = reactor;
  reactor->open_alarm_ = std::make_unique<grpc::Alarm>();
  reactor->open_alarm_->Set(absl::ToChronoTime(absl::Now() + context.open_timeout),
                            [reactor](bool) { reactor->OnOpenTimeout(); });
  reactor->Advance();
  return reactor.get();
}

// --- What happens.

void ObserveReactor::OnReadDone(bool ok) {
  MutexLock lock(&mutex_);
  Buffer* const buffer = std::exchange(reading_, nullptr);
  if (ok && closing_ != Closing::kDraining && !ending_) {
    buffer->bytes = MemoryOf(buffer->request);
    context_.budget->Acquire(buffer->bytes);
    queued_bytes_ += buffer->bytes;
    queued_.push_back(buffer);
  } else {
    free_.push_back(buffer);
    if (!ok && closing_ == Closing::kNo) closing_ = Closing::kHalfClosed;
  }
  Advance();
}

void ObserveReactor::OnWriteDone(bool ok) {
  MutexLock lock(&mutex_);
  writing_ = false;
  if (!ok) End(absl::CancelledError("the client is gone"));
  Advance();
}

void ObserveReactor::OnCancel() {
  MutexLock lock(&mutex_);
  End(absl::CancelledError("the client is gone"));
  Advance();
}

void ObserveReactor::OnDone() {
  std::shared_ptr<ObserveReactor> self;
  std::shared_ptr<ObserveStream> stream;
  std::unique_ptr<grpc::Alarm> ack_alarm, open_alarm;
  MutexLock lock(&mutex_);
  self.swap(self_);
  stream.swap(stream_);
  ack_alarm.swap(ack_alarm_);
  open_alarm.swap(open_alarm_);
}

void ObserveReactor::OnOpenTimeout() {
  MutexLock lock(&mutex_);
  if (ending_ || stream_ != nullptr) return;
  End(MakeError(v1::ERROR_REASON_STREAM_NOT_OPEN,
                absl::StrCat("no Open came within ", absl::FormatDuration(context_.open_timeout),
                             " of the stream's begin; send it first")));
  Advance();
}

void ObserveReactor::OnDurable() {
  std::shared_ptr<ObserveStream> stream;
  {
    MutexLock lock(&mutex_);
    if (ending_ || stream_ == nullptr) return;
    stream = stream_;
  }
  const v1::Ack ack = stream->ack();
  MutexLock lock(&mutex_);
  OfferAck(ack);
  Advance();
}

void ObserveReactor::OnStep(std::shared_ptr<const v1::ObserveResponse> message) {
  MutexLock lock(&mutex_);
  if (ending_) return;
  if (answers_.size() < kMostAnswers) {
    answers_.push_back(std::move(message));
  } else {
    End(MakeError(
        v1::ERROR_REASON_LIMIT_EXCEEDED,
        absl::StrCat(kMostAnswers, " answers wait for this stream to be read; read them, and open it again")));
  }
  Advance();
}

void ObserveReactor::OnEnd(const absl::Status& status) {
  MutexLock lock(&mutex_);
  End(status);
  Advance();
}

void ObserveReactor::OnDrain() {
  MutexLock lock(&mutex_);
  if (closing_ == Closing::kNo) closing_ = Closing::kDraining;
  Advance();
}

void ObserveReactor::End(const absl::Status& status) {
  if (!end_.has_value()) end_ = status;
}

// --- What follows from it.

void ObserveReactor::Advance() {
  if (ending_) return;
  MaybeRead();
  MaybeWrite();
  if (!busy_ && (MustFinish() || MustProcess() || MustSettle())) {
    busy_ = true;
    context_.pool->Schedule([self = shared_from_this()] { self->Run(); });
  }
}

void ObserveReactor::MaybeRead() {
  if (reading_ != nullptr || awaiting_budget_ || free_.empty() || answers_.size() >= kMaxAnswers) return;
  if (queued_.size() >= 2 && queued_bytes_ >= kSmallBytes) return;
  if (closing_ != Closing::kNo || end_.has_value()) return;
  const auto resume = [self = shared_from_this()] {
    MutexLock lock(&self->mutex_);
    self->awaiting_budget_ = false;
    self->Advance();
  };
  if (!context_.budget->MayRead(resume)) {
    awaiting_budget_ = true;
    return;
  }
  reading_ = free_.back();
  free_.pop_back();
  StartRead(&reading_->request);
}

void ObserveReactor::MaybeWrite() {
  if (writing_ || end_.has_value()) return;
  if (welcome_.has_value()) {
    *response_.mutable_welcome() = *std::move(welcome_);
    welcome_.reset();
  } else if (!answers_.empty() && stream_ != nullptr) {  // after the Welcome
    answer_ = std::move(answers_.front());
    answers_.pop_front();
    writing_ = true;
    StartWrite(answer_.get());
    return;
  } else if (ack_due_) {
    *response_.mutable_ack() = ack_;
    ack_due_ = false;
  } else {
    return;
  }
  writing_ = true;
  StartWrite(&response_);
}

bool ObserveReactor::MustProcess() const { return !queued_.empty() && !end_.has_value(); }

bool ObserveReactor::MustSettle() const {
  return closing_ != Closing::kNo && settling_ == Settling::kNo && queued_.empty() && !end_.has_value();
}

bool ObserveReactor::MustFinish() const {
  if (writing_) return false;
  if (end_.has_value()) return true;
  return settling_ == Settling::kDone && !welcome_.has_value() && answers_.empty() && !ack_due_;
}

void ObserveReactor::OfferAck(const v1::Ack& ack) {
  // Acks are read without the lock, so an older one may come later.
  ack_.set_applied(std::max(ack_.applied(), ack.applied()));
  ack_.set_durable(std::max(ack_.durable(), ack.durable()));
  ack_.set_values_ignored(std::max(ack_.values_ignored(), ack.values_ignored()));
  ack_.set_folded_step(std::max(ack_.folded_step(), ack.folded_step()));
  ack_.set_durable_step(std::max(ack_.durable_step(), ack.durable_step()));
  ack_due_ = true;
  unacknowledged_ = 0;
}

// --- The task.

void ObserveReactor::Run() {
  for (int message = 0; message < kMessagesPerTask; ++message) {
    enum { kProcess, kSettle, kFinish, kNothing } what;
    {
      MutexLock lock(&mutex_);
      what = MustFinish() ? kFinish : MustProcess() ? kProcess : MustSettle() ? kSettle : kNothing;
      if (what == kFinish) ending_ = true;
    }
    if (what == kNothing) break;
    if (what == kFinish) return FinishStream();
    if (what == kProcess) Process();
    if (what == kSettle) Settle();
  }
  MutexLock lock(&mutex_);
  busy_ = false;
  Advance();
}

void ObserveReactor::Process() {
  std::shared_ptr<ObserveStream> stream;
  Buffer* buffer;
  {
    MutexLock lock(&mutex_);
    stream = stream_;
    buffer = queued_.front();
  }
  const absl::Status status = stream == nullptr ? OpenStream(buffer->request) : stream->Handle(buffer->request);
  const bool ends = !status.ok() && (stream == nullptr || ObserveStream::EndsStream(status));
  std::shared_ptr<v1::ObserveResponse> refusal;
  if (!status.ok() && !ends) {
    refusal = std::make_shared<v1::ObserveResponse>();
    *refusal->mutable_refusal() = stream->MakeRefusal(buffer->request, status);
  }
  const bool update = stream != nullptr && buffer->request.has_update();
  const size_t bytes = buffer->bytes;
  buffer->request.Clear();  // the budget counts it no more
  {
    MutexLock lock(&mutex_);
    queued_.pop_front();
    queued_bytes_ -= bytes;
    free_.push_back(buffer);
    if (ends) End(status);
    if (refusal != nullptr) answers_.push_back(std::move(refusal));
    if (update) ++unacknowledged_;
    MaybeRead();
    MaybeWrite();
  }
  context_.budget->Release(bytes);
  if (update) Acknowledge(stream.get());
}

void ObserveReactor::Acknowledge(ObserveStream* stream) {
  {
    MutexLock lock(&mutex_);
    if (unacknowledged_ < kAckEvery) {
      if (!ack_alarm_set_) {
        ack_alarm_set_ = true;
        ack_alarm_ = std::make_unique<grpc::Alarm>();
        ack_alarm_->Set(absl::ToChronoTime(absl::Now() + kAckDelay), [self = shared_from_this()](bool) {
          // The session's lock is not for a thread of gRPC to wait for.
          self->context_.pool->Schedule([self] { self->OnAckDelay(); });
        });
      }
      return;
    }
  }
  const v1::Ack ack = stream->ack();
  MutexLock lock(&mutex_);
  OfferAck(ack);
  MaybeWrite();
}

void ObserveReactor::OnAckDelay() {
  std::shared_ptr<ObserveStream> stream;
  {
    MutexLock lock(&mutex_);
    ack_alarm_set_ = false;
    if (ending_ || unacknowledged_ == 0) return;
    stream = stream_;
  }
  const v1::Ack ack = stream->ack();
  MutexLock lock(&mutex_);
  OfferAck(ack);
  Advance();
}

absl::Status ObserveReactor::OpenStream(const v1::ObserveRequest& request) {
  if (!request.has_open()) {
    return MakeError(v1::ERROR_REASON_STREAM_NOT_OPEN, "the first message of an Observe stream must be Open");
  }
  absl::StatusOr<std::unique_ptr<ObserveStream>> stream =
      ObserveStream::Open(context_.engine, request.open(), shared_from_this());
  if (!stream.ok()) return stream.status();
  const std::shared_ptr<ObserveStream> opened = *std::move(stream);
  {
    MutexLock lock(&mutex_);
    stream_ = opened;
    welcome_ = opened->welcome();
  }
  // What became durable after the Welcome was made and before stream_ was set, OnDurable could tell nobody.
  const v1::Ack ack = opened->ack();
  if (ack.durable() > opened->welcome().durable() || ack.durable_step() > opened->welcome().durable_step()) {
    MutexLock lock(&mutex_);
    OfferAck(ack);
  }
  return absl::OkStatus();
}

void ObserveReactor::Settle() {
  std::shared_ptr<ObserveStream> stream;
  {
    MutexLock lock(&mutex_);
    settling_ = Settling::kAsked;
    stream = stream_;
    if (stream == nullptr) {
      End(MakeError(v1::ERROR_REASON_STREAM_NOT_OPEN, "the stream was closed before its first message, Open"));
      return;
    }
  }
  stream->WhenDurable([self = shared_from_this(), stream](absl::StatusOr<uint64_t> durable) {
    const v1::Ack ack = stream->ack();
    MutexLock lock(&self->mutex_);
    if (durable.ok()) {
      self->settling_ = Settling::kDone;
      self->OfferAck(ack);
    } else {
      self->End(durable.status());
    }
    self->Advance();
  });
}

void ObserveReactor::FinishStream() {
  std::shared_ptr<ObserveStream> stream;
  size_t dropped = 0;
  absl::Status status;
  {
    MutexLock lock(&mutex_);
    stream = stream_;
    dropped = queued_bytes_;
    queued_.clear();
    if (end_.has_value()) {
      status = *end_;
    } else if (closing_ == Closing::kDraining) {
      status = MakeError(v1::ERROR_REASON_SERVER_DRAINING,
                         "the server is shutting down; everything acknowledged is durable: reconnect with backoff");
    }
  }
  context_.budget->Release(dropped);
  if (stream != nullptr) stream->Close();
  const grpc::Status answer = ToGrpcStatus(status);
  CountCall(&context_.engine->counters(), Method::kObserve, answer.error_code());
  Finish(answer);
}

}  // namespace calib::server
