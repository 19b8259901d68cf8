#include "server/engine/observe_stream.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "proto/codec/config_codec.h"
#include "proto/codec/error.h"
#include "server/engine/engine.h"
#include "server/engine/validate.h"

namespace calib::server {

absl::StatusOr<std::unique_ptr<ObserveStream>> ObserveStream::Open(Engine* engine, const v1::Open& open,
                                                                   std::shared_ptr<StreamListener> listener) {
  if (absl::Status status = ValidateWorkerId(open.worker_id()); !status.ok()) return status;
  if (absl::Status status = ValidateDisplayName(open.display_name()); !status.ok()) return status;
  absl::StatusOr<std::shared_ptr<Session>> session = engine->FindSession(open.session());
  if (!session.ok()) return session.status();
  const absl::StatusOr<uint64_t> id = engine->AddStream(listener);
  if (!id.ok()) return id.status();
  const std::optional<uint32_t> rank = open.has_rank() ? std::optional<uint32_t>(open.rank()) : std::nullopt;
  const absl::StatusOr<Session::OpenResult> opened =
      (*session)->OpenStream({open.worker_id(), open.display_name(), rank, open.durable()}, std::move(listener));
  if (!opened.ok()) {
    engine->RemoveStream(*id);
    return opened.status();
  }
  return std::unique_ptr<ObserveStream>(new ObserveStream(engine, *id, *std::move(session), *opened, rank));
}

ObserveStream::ObserveStream(Engine* engine, uint64_t id, std::shared_ptr<Session> session,
                             const Session::OpenResult& opened, std::optional<uint32_t> rank)
    : engine_(engine), id_(id), session_(std::move(session)), worker_(opened.worker), rank_(rank) {
  welcome_.set_incarnation(opened.incarnation);
  welcome_.set_server_epoch(engine_->server_epoch());
  welcome_.set_applied(opened.progress.applied);
  welcome_.set_durable(opened.progress.durable);
  *welcome_.mutable_config() = EncodeSessionConfig(session_->config());
  if (opened.world_epoch == 0) return;
  welcome_.mutable_world()->set_epoch(opened.world_epoch);
  welcome_.mutable_world()->set_size(opened.world_size);
  welcome_.set_folded_step(opened.progress.folded_step);
  welcome_.set_durable_step(opened.progress.durable_step);
}

ObserveStream::~ObserveStream() { Close(); }

void ObserveStream::Close() {
  if (std::exchange(closed_, true)) return;
  session_->CloseStream(worker_, welcome_.incarnation());
  engine_->RemoveStream(id_);
}

absl::Status ObserveStream::Handle(const v1::ObserveRequest& request) {
  absl::Status status;
  switch (request.kind_case()) {
    case v1::ObserveRequest::kRegisterLayers:
      status = HandleRegister(request.register_layers());
      break;
    case v1::ObserveRequest::kUpdate:
      status = HandleUpdate(request.update());
      break;
    case v1::ObserveRequest::kStepContribution:
      status = HandleContribution(request.step_contribution());
      break;
    case v1::ObserveRequest::kStepCounts:
      status = HandleCounts(request.step_counts());
      break;
    case v1::ObserveRequest::kOpen:
      status = MakeError(v1::ERROR_REASON_STREAM_NOT_OPEN, "Open came a second time; it may come only once, first");
      break;
    case v1::ObserveRequest::KIND_NOT_SET:
      status = MakeError(v1::ERROR_REASON_STREAM_NOT_OPEN,
                         "a message holds nothing that this server knows; send RegisterLayers or Update");
      break;
  }
  if (!status.ok()) engine_->counters().refusals[GetReason(status)] += 1;
  return status;
}

bool ObserveStream::EndsStream(const absl::Status& status) {
  const v1::ErrorReason reason = GetReason(status);
  return reason == v1::ERROR_REASON_WORKER_FENCED || reason == v1::ERROR_REASON_SESSION_DELETED ||
         reason == v1::ERROR_REASON_STREAM_NOT_OPEN;
}

v1::Refusal ObserveStream::MakeRefusal(const v1::ObserveRequest& request, const absl::Status& status) const {
  v1::Refusal refusal;
  refusal.set_first(request.update().first());
  refusal.set_last(request.update().last());
  refusal.set_step(request.has_step_counts() ? request.step_counts().step() : request.step_contribution().step());
  refusal.set_applied(session_->GetProgress(worker_).applied);
  refusal.set_code(static_cast<int32_t>(status.code()));
  refusal.set_message(std::string(status.message()));
  if (std::optional<v1::ErrorInfo> info = GetErrorInfo(status); info.has_value()) {
    *refusal.mutable_info() = *std::move(info);
  }
  return refusal;
}

v1::Ack ObserveStream::ack() const {
  const Progress progress = session_->GetProgress(worker_);
  v1::Ack ack;
  ack.set_applied(progress.applied);
  ack.set_durable(progress.durable);
  ack.set_values_ignored(values_ignored_);
  ack.set_folded_step(progress.folded_step);
  ack.set_durable_step(progress.durable_step);
  return ack;
}

void ObserveStream::WhenDurable(Session::DurableCallback done) { engine_->WhenDurable(session_, std::move(done)); }

absl::Status ObserveStream::HandleRegister(const v1::RegisterLayers& request) {
  const Limits& limits = engine_->options().limits;
  if (request.first_handle() != bindings_.size()) {
    return MakeError(v1::ERROR_REASON_LAYER_HANDLE_UNKNOWN,
                     absl::StrCat("first_handle is ", request.first_handle(), " and must be ", bindings_.size(),
                                  ", the number of layers that this stream registered before"),
                     {{"handle", absl::StrCat(request.first_handle())}, {"expected", absl::StrCat(bindings_.size())}});
  }
  const size_t layers = bindings_.size() + request.name_size();
  if (layers > limits.max_layers) {
    return LimitExceeded(absl::StrCat("the stream would have registered ", layers, " layers"), "--max-layers",
                         limits.max_layers);
  }
  std::unordered_set<std::string_view> added;
  for (const std::string& name : request.name()) {
    if (absl::Status status = ValidateLayerName(name, limits); !status.ok()) return status;
    if (names_.count(name) != 0 || !added.insert(name).second) {
      return InvalidField(
          "register_layers.name",
          absl::StrCat("layer ", Quoted(name), " has a handle already; register each name once a stream"));
    }
  }
  const ObserverRules& rules = session_->config().rules;
  for (const std::string& name : request.name()) {
    LayerBinding& binding = bindings_.emplace_back();
    binding.name = name;
    names_.insert(binding.name);
    if (const size_t rule = rules.Find(name); rule < rules.rules().size()) {
      binding.observer = rules.rules()[rule].observer;
      binding.quant_spec = rules.rules()[rule].quant_spec;
    }
  }
  return absl::OkStatus();
}

absl::Status ObserveStream::HandleUpdate(const v1::Update& update) {
  const absl::StatusOr<Session::Sequencing> sequencing =
      session_->CheckSequence(worker_, welcome_.incarnation(), update.first(), update.last());
  if (!sequencing.ok()) return sequencing.status();
  if (*sequencing == Session::Sequencing::kRepeated) {
    engine_->counters().updates_repeated += 1;
    return absl::OkStatus();
  }
  switch (update.payload_case()) {
    case v1::Update::kStatistics:
      return HandleStatistics(update);
    case v1::Update::kTensor:
      return HandleTensor(update);
    case v1::Update::PAYLOAD_NOT_SET:
      break;
  }
  return InvalidField("update.payload", "must be statistics or a tensor");
}

absl::StatusOr<LayerBinding*> ObserveStream::FindBinding(uint32_t handle) {
  if (handle >= bindings_.size()) {
    return MakeError(v1::ERROR_REASON_LAYER_HANDLE_UNKNOWN,
                     absl::StrCat("layer handle ", handle, " is not registered; this stream registered ",
                                  bindings_.size(), " layers"),
                     {{"handle", absl::StrCat(handle)}});
  }
  LayerBinding& binding = bindings_[handle];
  if (!binding.observer.has_value()) {
    return MakeError(v1::ERROR_REASON_LAYER_SKIPPED,
                     absl::StrCat("the rules of session ", Quoted(session_->name()), " skip layer ",
                                  Quoted(binding.name), "; do not send it"),
                     {{"layer", binding.name}, {"session", session_->name()}});
  }
  return &binding;
}

absl::Status ObserveStream::CheckStepless(const LayerBinding& binding) const {
  if (!session_->config().synchronous.has_value() || !NeedsSteps(binding.observer->kind)) return absl::OkStatus();
  return MakeError(
      v1::ERROR_REASON_STEP_REQUIRED,
      absl::StrCat("layer ", Quoted(binding.name), ": its observer (", ObserverKindName(binding.observer->kind),
                   ") takes synchronous steps alone in this session; contribute it to a step"),
      {{"layer", binding.name}, {"session", session_->name()}});
}

absl::Status ObserveStream::NameLayer(const absl::Status& status) const {
  const std::optional<v1::ErrorInfo> info = GetErrorInfo(status);
  if (!info.has_value()) return status;
  const auto found = info->metadata().find("handle");
  uint32_t handle;
  if (found == info->metadata().end() || !absl::SimpleAtoi(found->second, &handle) || handle >= bindings_.size()) {
    return status;
  }
  const std::string& name = bindings_[handle].name;
  return MakeError(GetReason(status), absl::StrCat("layer ", Quoted(name), ": ", status.message()),
                   {{"handle", found->second}, {"layer", name}});
}

absl::Status ObserveStream::HandleStatistics(const v1::Update& update) {
  const v1::StatisticsBatch& batch = update.statistics();
  for (const uint32_t handle : batch.layer()) {
    const auto binding = FindBinding(handle);
    if (!binding.ok()) return binding.status();
    if (absl::Status status = CheckStepless(**binding); !status.ok()) return status;
  }
  absl::Status status = reader_.Decode(batch, [&](uint32_t handle) { return bindings_[handle].observer->kind; });
  if (!status.ok()) return NameLayer(status);
  update_.layers.clear();
  for (const LayerView& rows : reader_.layers()) {
    update_.layers.push_back({.binding = &bindings_[rows.handle], .rows = rows});
  }
  update_.bytes = update.ByteSizeLong();
  status = Apply(update);
  if (status.ok()) engine_->counters().statistics_bytes += update_.bytes;
  return status;
}

absl::Status ObserveStream::Apply(const v1::Update& update) {
  update_.first = update.first();
  update_.last = update.last();
  const absl::StatusOr<Session::ApplyResult> result = session_->Apply(worker_, welcome_.incarnation(), update_);
  if (!result.ok()) return result.status();
  values_ignored_ = SaturatingAdd(values_ignored_, result->values_ignored);
  engine_->NoteIngested(result->bytes_since_cut);
  return absl::OkStatus();
}

}  // namespace calib::server
