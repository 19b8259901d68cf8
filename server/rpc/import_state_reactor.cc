#include "server/rpc/import_state_reactor.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/codec/error.h"
#include "server/rpc/method.h"
#include "server/rpc/session_messages.h"
#include "server/rpc/status_grpc.h"

namespace calib::server {
namespace {

// Names of layers left out that an answer has.
constexpr size_t kMostLeftOut = 1000;

absl::Status ImportDrainingError() {
  return MakeError(v1::ERROR_REASON_SERVER_DRAINING,
                   "the server is shutting down, and nothing was imported: retry with backoff");
}

}  // namespace

ImportStateReactor* ImportStateReactor::Start(Engine* engine, ThreadPool* pool, v1::ImportStateResponse* response) {
  const std::shared_ptr<ImportStateReactor> reactor(new ImportStateReactor(engine, pool, response));
  MutexLock lock(&reactor->mutex_);
  reactor->self_ = reactor;
  reactor->Schedule();
  return reactor.get();
}

void ImportStateReactor::OnReadDone(bool ok) {
  MutexLock lock(&mutex_);
  if (stage_ != Stage::kReading) return;  // given up while it was read
  half_closed_ = !ok;
  Schedule();
}

void ImportStateReactor::OnCancel() {
  MutexLock lock(&mutex_);
  cancelled_ = true;  // a read under way ends by itself
}

void ImportStateReactor::OnDrain() {
  MutexLock lock(&mutex_);
  // The client may never send more, so this does not wait for the read. The task sees that the server drains.
  if (stage_ == Stage::kReading) Schedule();
}

void ImportStateReactor::OnDone() {
  std::shared_ptr<ImportStateReactor> self;
  MutexLock lock(&mutex_);
  self.swap(self_);
}

void ImportStateReactor::Schedule() {
  stage_ = Stage::kWorking;
  pool_->Schedule([self = shared_from_this()] { self->Run(); });
}

void ImportStateReactor::Run() {
  bool half_closed;
  {
    MutexLock lock(&mutex_);
    half_closed = half_closed_;
    if (cancelled_) half_closed = false;
  }
  if (half_closed && session_ != nullptr) return Merge();
  // Before request_ is looked at: a read may be under way.
  if (engine_->draining()) return End(ImportDrainingError());
  if (half_closed) return End(InvalidField("open", "is missing: the stream was closed before its first message"));
  if (const absl::Status handled = Handle(); !handled.ok()) return End(handled);
  {
    MutexLock lock(&mutex_);
    // A drain that began meanwhile has told this stream already.
    if (!engine_->draining()) {
      stage_ = Stage::kReading;
      StartRead(&request_);
      return;
    }
  }
  End(ImportDrainingError());
}

absl::Status ImportStateReactor::Handle() {
  {
    MutexLock lock(&mutex_);
    if (cancelled_) return absl::CancelledError("the client is gone");
  }
  if (!stream_.has_value()) return Register();
  if (session_ == nullptr) {
    if (!request_.has_open()) return InvalidField("open", "is missing: the first message says where the state goes");
    return Open(request_.open());
  }
  if (request_.message_case() != v1::ImportStateRequest::kData) {
    return InvalidField("data", "is missing: every message but the first has the next bytes of the file");
  }
  if (request_.data().size() > kMaxStateChunkBytes) {
    return InvalidField("data", absl::StrCat("has ", request_.data().size(), " bytes; send at most ",
                                             kMaxStateChunkBytes, " at a time"));
  }
  return import_->Add(request_.data());
}

absl::Status ImportStateReactor::Register() {
  const absl::StatusOr<uint64_t> stream = engine_->AddStream(shared_from_this());
  if (stream.ok()) stream_ = *stream;
  return stream.status();
}

absl::Status ImportStateReactor::Open(const v1::StateImport& open) {
  absl::StatusOr<std::shared_ptr<Session>> session = engine_->FindSession(open.session());
  if (!session.ok()) return session.status();
  session_ = *std::move(session);
  skip_unmergeable_ = open.skip_unmergeable();
  import_ = std::make_unique<StateImport>(engine_);
  return absl::OkStatus();
}

void ImportStateReactor::Merge() {
  const absl::StatusOr<StateMerge> merge = import_->Merge(session_.get(), skip_unmergeable_);
  import_.reset();
  if (!merge.ok()) return End(merge.status());
  response_->set_already_merged(merge->already_merged);
  response_->set_layers(merge->layers);
  response_->set_values(merge->values);
  response_->set_layers_left_out(merge->left_out.size());
  const size_t named = std::min(merge->left_out.size(), kMostLeftOut);
  for (size_t i = 0; i < named; ++i) response_->add_left_out(merge->left_out[i]);
  {
    MutexLock lock(&mutex_);
    stage_ = Stage::kCommitting;
  }
  engine_->WhenDurable(session_, [self = shared_from_this()](const absl::StatusOr<uint64_t>& durable) {
    if (durable.ok()) {
      FillSession(self->session_->GetSummary(), self->engine_->options().clock->Elapsed(),
                  self->response_->mutable_session());
    }
    self->End(durable.status());
  });
}

void ImportStateReactor::End(const absl::Status& status) {
  {
    MutexLock lock(&mutex_);
    stage_ = Stage::kFinished;
  }
  import_.reset();
  if (stream_.has_value()) engine_->RemoveStream(*stream_);
  const grpc::Status answer = ToGrpcStatus(status);
  CountCall(&engine_->counters(), Method::kImportState, answer.error_code());
  Finish(answer);
}

}  // namespace calib::server
