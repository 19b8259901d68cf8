#include "server/rpc/export_reactor.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/codec/error.h"
#include "server/rpc/method.h"
#include "server/rpc/status_grpc.h"

namespace calib::server {
namespace {

// Bytes of one message, either way.
constexpr size_t kMaxExportChunkBytes = 1 << 20;

}  // namespace

ExportReactor* ExportReactor::Start(Engine* engine, ThreadPool* pool, const ExportLimits& limits) {
  const std::shared_ptr<ExportReactor> reactor(new ExportReactor(engine, pool, limits));
  MutexLock lock(&reactor->mutex_);
  reactor->self_ = reactor;
  reactor->Schedule();
  return reactor.get();
}

// --- What happens.

void ExportReactor::OnReadDone(bool ok) {
  MutexLock lock(&mutex_);
  if (stage_ != Stage::kReading) return;  // given up while it was read
  half_closed_ = !ok;
  Schedule();
}

void ExportReactor::OnWriteDone(bool ok) {
  MutexLock lock(&mutex_);
  if (!ok) cancelled_ = true;
  if (stage_ == Stage::kWriting) Schedule();
}

void ExportReactor::OnCancel() {
  MutexLock lock(&mutex_);
  cancelled_ = true;
  // The task sees that before it looks at the messages, which gRPC may still have.
  if (stage_ == Stage::kReading || stage_ == Stage::kWriting) Schedule();
}

void ExportReactor::OnDrain() {
  MutexLock lock(&mutex_);
  // The client may never send or take more, so this does not wait for it.
  if (stage_ == Stage::kReading || stage_ == Stage::kWriting) Schedule();
}

void ExportReactor::OnDone() {
  std::shared_ptr<ExportReactor> self;
  MutexLock lock(&mutex_);
  self.swap(self_);
}

void ExportReactor::Schedule() {
  stage_ = Stage::kWorking;
  pool_->Schedule([self = shared_from_this()] { self->Run(); });
}

// --- The task.

void ExportReactor::Run() {
  absl::Status status = Ended();
  if (!status.ok()) return End(status);
  bool half_closed;
  {
    MutexLock lock(&mutex_);
    half_closed = half_closed_;
  }
  if (!stream_.has_value()) {
    status = Register();
  } else if (!half_closed) {
    status = Handle();
  } else if (!file_.has_value()) {
    status = Make();
  }
  if (!status.ok()) return End(status);
  if (half_closed && !FillResponse()) return End(absl::OkStatus());
  {
    MutexLock lock(&mutex_);
    // A drain or a cancellation that came meanwhile has told this stream already, which was at work.
    if (!cancelled_ && !engine_->draining()) {
      stage_ = half_closed ? Stage::kWriting : Stage::kReading;
      if (half_closed) {
        StartWrite(&response_);
      } else {
        StartRead(&request_);
      }
      return;
    }
  }
  End(Ended());
}

absl::Status ExportReactor::Register() {
  const absl::StatusOr<uint64_t> stream = engine_->AddStream(shared_from_this());
  if (stream.ok()) stream_ = *stream;
  return stream.status();
}

absl::Status ExportReactor::Handle() {
  if (!query_.has_value()) {
    if (!request_.has_options()) return InvalidField("options", "is missing: the first message says what to export");
    absl::StatusOr<ExportQuery> query = DecodeExport(*engine_, request_.options());
    if (!query.ok()) return query.status();
    query_ = *std::move(query);
    return absl::OkStatus();
  }
  if (request_.kind_case() != v1::ExportRequest::kInput) {
    return InvalidField("input", "is missing: every message but the first has the next bytes of the input");
  }
  if (request_.input().size() > kMaxExportChunkBytes) {
    return InvalidField("input", absl::StrCat("has ", request_.input().size(), " bytes; send at most ",
                                              kMaxExportChunkBytes, " at a time"));
  }
  if (absl::Status status = CheckInput(*query_, true); !status.ok()) return status;
  if (absl::Status status = memory_.AddInput(request_.input().size()); !status.ok()) return status;
  input_ += request_.input();
  return absl::OkStatus();
}

absl::Status ExportReactor::Make() {
  if (!query_.has_value()) {
    return InvalidField("options", "is missing: the stream was closed before its first message");
  }
  if (absl::Status status = CheckInput(*query_, !input_.empty()); !status.ok()) return status;
  absl::StatusOr<ExportFile> file =
      MakeExportFile(&*query_, std::move(input_), &memory_, [this] { return !Ended().ok(); });
  query_.reset();
  if (absl::IsCancelled(file.status())) return Ended();
  if (!file.ok()) return file.status();
  file_ = *std::move(file);
  return absl::OkStatus();
}

bool ExportReactor::FillResponse() {
  if (parts_sent_ < file_->summary.size()) {
    *response_.mutable_summary() = std::move(file_->summary[parts_sent_++]);
    return true;
  }
  if (bytes_sent_ == file_->bytes.size()) return false;
  response_.set_chunk(file_->bytes.substr(bytes_sent_, kMaxExportChunkBytes));
  bytes_sent_ += response_.chunk().size();
  return true;
}

absl::Status ExportReactor::Ended() {
  if (engine_->draining()) {
    return MakeError(v1::ERROR_REASON_SERVER_DRAINING,
                     "the server is shutting down: drop what came of the file, and begin again");
  }
  MutexLock lock(&mutex_);
  return cancelled_ ? absl::CancelledError("the client is gone") : absl::OkStatus();
}

void ExportReactor::End(const absl::Status& status) {
  {
    MutexLock lock(&mutex_);
    stage_ = Stage::kFinished;
  }
  query_.reset();
  file_.reset();
  input_ = {};
  memory_.Drop();
  if (stream_.has_value()) engine_->RemoveStream(*stream_);
  const grpc::Status answer = ToGrpcStatus(status);
  CountCall(&engine_->counters(), Method::kExport, answer.error_code());
  Finish(answer);
}

}  // namespace calib::server
