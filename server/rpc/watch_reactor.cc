#include "server/rpc/watch_reactor.h"

#include <algorithm>
#include <chrono>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "proto/codec/error.h"
#include "server/rpc/method.h"
#include "server/rpc/page.h"
#include "server/rpc/session_messages.h"
#include "server/rpc/status_grpc.h"

namespace calib::server {
namespace {

constexpr uint32_t kDefaultIntervalMs = 1000;
constexpr uint32_t kMinIntervalMs = 50;
// However long the interval, a drain or a deletion is noticed within this time.
constexpr absl::Duration kMaxWait = absl::Milliseconds(500);

}  // namespace

WatchReactor* WatchReactor::Start(Engine* engine, ThreadPool* pool, const v1::WatchQParamsRequest& request,
                                  size_t max_message_bytes) {
  const std::shared_ptr<WatchReactor> reactor(new WatchReactor(engine, pool, request, max_message_bytes));
  MutexLock lock(&reactor->mutex_);
  reactor->self_ = reactor;
  reactor->Schedule();
  return reactor.get();
}

// --- What happens.

void WatchReactor::OnWriteDone(bool ok) {
  MutexLock lock(&mutex_);
  writing_ = false;
  if (!ok) cancelled_ = true;
  Schedule();
}

void WatchReactor::OnCancel() {
  MutexLock lock(&mutex_);
  cancelled_ = true;
  Schedule();
}

void WatchReactor::OnAlarm() {
  MutexLock lock(&mutex_);
  Schedule();
}

void WatchReactor::OnDone() {
  std::shared_ptr<WatchReactor> self;
  MutexLock lock(&mutex_);
  self.swap(self_);
}

void WatchReactor::Schedule() {
  if (busy_ || writing_ || finished_) return;
  busy_ = true;
  pool_->Schedule([self = shared_from_this()] { self->Run(); });
}

void WatchReactor::Wait(absl::Time until) {
  alarm_ = std::make_unique<grpc::Alarm>();
  alarm_->Set(absl::ToChronoTime(until), [self = shared_from_this()](bool) { self->OnAlarm(); });
}

bool WatchReactor::cancelled() {
  MutexLock lock(&mutex_);
  return cancelled_;
}

// --- The task.

void WatchReactor::Run() {
  const Step step = Look();
  std::unique_ptr<grpc::Alarm> old_alarm;
  MutexLock lock(&mutex_);
  busy_ = false;
  old_alarm = std::move(alarm_);
  if (cancelled_ || step.next == Step::kFinish) {
    const grpc::Status answer = ToGrpcStatus(cancelled_ ? absl::CancelledError("the client is gone") : step.status);
    session_.reset();
    finished_ = true;
    CountCall(&engine_->counters(), Method::kWatchQParams, answer.error_code());
    Finish(answer);
  } else if (step.next == Step::kWrite) {
    writing_ = true;
    StartWrite(&response_);
  } else {
    Wait(std::min(next_look_, absl::Now() + kMaxWait));
  }
}

WatchReactor::Step WatchReactor::Look() {
  if (cancelled()) return {};
  if (!prepared_) {
    const absl::Status prepared = Prepare();
    if (!prepared.ok()) return {Step::kFinish, prepared};
    prepared_ = true;
  }
  if (engine_->draining()) {
    return {Step::kFinish,
            MakeError(v1::ERROR_REASON_SERVER_DRAINING, "the server is shutting down: reconnect with backoff")};
  }
  if (layers_.empty()) {
    if (sealed_) return {Step::kFinish, absl::OkStatus()};
    const absl::Time now = absl::Now();
    if (session_->GetSummary().deleted) {
      return {Step::kFinish, MakeError(v1::ERROR_REASON_SESSION_DELETED,
                                       absl::StrCat("session \"", request_.session(), "\" was deleted"),
                                       {{"session", request_.session()}})};
    }
    if (now < next_look_) return {};
    const absl::StatusOr<bool> changed = Refresh();
    if (!changed.ok()) return {Step::kFinish, changed.status()};
    next_look_ = now + interval_;
    if (!*changed) return {};
  }
  const absl::Status filled = FillResponse();
  if (!filled.ok()) return {Step::kFinish, filled};
  return {Step::kWrite, absl::OkStatus()};
}

absl::Status WatchReactor::Prepare() {
  if (request_.interval_ms() != 0 && request_.interval_ms() < kMinIntervalMs) {
    return InvalidField("interval_ms", absl::StrCat("is ", request_.interval_ms(), ": give at least ", kMinIntervalMs,
                                                    ", or 0 for ", kDefaultIntervalMs));
  }
  interval_ = absl::Milliseconds(request_.interval_ms() == 0 ? kDefaultIntervalMs : request_.interval_ms());
  const absl::StatusOr<std::string> pattern = LayerPattern(request_.pattern());
  if (!pattern.ok()) return pattern.status();
  pattern_ = *pattern;
  const absl::StatusOr<QParamsQuery> query = DecodeQuery(request_);
  if (!query.ok()) return query.status();
  query_ = *query;
  absl::StatusOr<std::shared_ptr<Session>> session = engine_->FindSession(request_.session());
  if (!session.ok()) return session.status();
  session_ = *std::move(session);
  return absl::OkStatus();
}

absl::StatusOr<bool> WatchReactor::Refresh() {
  // The summary first: what changes after it is found again by the next look, and a sealed session changes no more.
  const Session::Summary summary = session_->GetSummary();
  sealed_ = summary.record.sealed;
  state_.Clear();
  FillSession(summary, engine_->options().clock->Elapsed(), state_.mutable_session());
  FillWorkers(*session_, state_.mutable_worker());
  const std::vector<std::string> changed = session_->ListLayers(pattern_, "", kAllLayers, seen_version_);
  layers_.assign(changed.begin(), changed.end());
  seen_version_ = summary.version;
  std::string progress = state_.SerializeAsString();
  const bool news = sealed_ || !layers_.empty() || progress != seen_progress_;
  seen_progress_ = std::move(progress);
  return news;
}

absl::Status WatchReactor::FillResponse() {
  response_ = state_;
  size_t bytes = 0;  // of layers, so that each message gets on however many workers there are
  while (!layers_.empty() && bytes < kPageBytes && !cancelled()) {
    const absl::StatusOr<Session::LayerSnapshot> layer = session_->GetLayer(layers_.front());
    if (!layer.ok()) return layer.status();
    absl::StatusOr<v1::LayerQParams> answer = ComputeLayerQParams(*layer, query_, [this] { return cancelled(); });
    if (!answer.ok()) return answer.status();
    const size_t answer_bytes = answer->ByteSizeLong() + kEntryOverhead;
    if (answer_bytes > max_message_bytes_) return AnswerTooLarge(1, max_message_bytes_);
    if (bytes > 0 && bytes + answer_bytes > max_message_bytes_) break;
    bytes += answer_bytes;
    *response_.add_layer() = *std::move(answer);
    layers_.pop_front();
  }
  return absl::OkStatus();
}

}  // namespace calib::server
