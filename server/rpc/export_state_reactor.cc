#include "server/rpc/export_state_reactor.h"

#include <utility>

#include "proto/codec/error.h"
#include "server/rpc/method.h"
#include "server/rpc/status_grpc.h"

namespace calib::server {

ExportStateReactor* ExportStateReactor::Start(Engine* engine, ThreadPool* pool, const std::string& session) {
  const std::shared_ptr<ExportStateReactor> reactor(new ExportStateReactor(engine, pool, session));
  MutexLock lock(&reactor->mutex_);
  reactor->self_ = reactor;
  reactor->Schedule();
  return reactor.get();
}

void ExportStateReactor::OnWriteDone(bool ok) {
  MutexLock lock(&mutex_);
  writing_ = false;
  if (!ok) cancelled_ = true;
  Schedule();
}

void ExportStateReactor::OnCancel() {
  MutexLock lock(&mutex_);
  cancelled_ = true;
  Schedule();
}

void ExportStateReactor::OnDone() {
  std::shared_ptr<ExportStateReactor> self;
  MutexLock lock(&mutex_);
  self.swap(self_);
}

void ExportStateReactor::Schedule() {
  if (busy_ || writing_ || finished_) return;
  busy_ = true;
  pool_->Schedule([self = shared_from_this()] { self->Run(); });
}

void ExportStateReactor::Run() {
  const absl::StatusOr<bool> filled = FillChunk();
  {
    MutexLock lock(&mutex_);
    busy_ = false;
    if (!cancelled_ && filled.ok() && *filled) {
      writing_ = true;
      StartWrite(&chunk_);
      return;
    }
    finished_ = true;
  }
  export_.reset();
  if (stream_.has_value()) engine_->RemoveStream(*stream_);
  MutexLock lock(&mutex_);
  const grpc::Status answer = ToGrpcStatus(cancelled_ ? absl::CancelledError("the client is gone") : filled.status());
  CountCall(&engine_->counters(), Method::kExportState, answer.error_code());
  Finish(answer);
}

absl::StatusOr<bool> ExportStateReactor::FillChunk() {
  {
    MutexLock lock(&mutex_);
    if (cancelled_) return false;
  }
  if (export_ == nullptr) {
    if (const absl::Status begun = Begin(); !begun.ok()) return begun;
  }
  if (engine_->draining()) {
    return MakeError(v1::ERROR_REASON_SERVER_DRAINING,
                     "the server is shutting down: drop what came of the state, and begin again");
  }
  while (!complete_ && bytes_.size() < kMaxStateChunkBytes) {
    const absl::StatusOr<bool> more = export_->Next(&bytes_);
    if (!more.ok()) return more.status();
    complete_ = !*more;
  }
  if (bytes_.empty()) return false;
  chunk_.set_data(bytes_.substr(0, kMaxStateChunkBytes));
  bytes_.erase(0, kMaxStateChunkBytes);
  return true;
}

absl::Status ExportStateReactor::Begin() {
  const absl::StatusOr<uint64_t> stream = engine_->AddStream(shared_from_this());
  if (!stream.ok()) return stream.status();
  stream_ = *stream;
  absl::StatusOr<std::unique_ptr<StateExport>> state = StateExport::Begin(engine_, session_);
  if (!state.ok()) return state.status();
  export_ = *std::move(state);
  return absl::OkStatus();
}

}  // namespace calib::server
