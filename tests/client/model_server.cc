#include "tests/client/model_server.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proto/codec/error.h"

namespace calib::test {

ObserverConfig ModelServer::ObserverOf(absl::string_view layer) {
  ObserverConfig config;
  if (absl::StartsWith(layer, "range")) config.kind = ObserverKind::kMinMax;
  if (absl::StartsWith(layer, "channels")) config.channel_axis = 0;
  return config;
}

v1::Welcome ModelServer::Open() {
  names_.clear();
  v1::Welcome welcome;
  welcome.set_incarnation(++incarnation_);
  welcome.set_server_epoch(epoch_);
  welcome.set_applied(applied_.unit);
  welcome.set_durable(durable_.unit);
  return welcome;
}

void ModelServer::Crash() {
  applied_ = durable_;
  incarnation_ = 0;
  ++epoch_;
}

v1::Ack ModelServer::MakeAck() const {
  v1::Ack ack;
  ack.set_applied(applied_.unit);
  ack.set_durable(durable_.unit);
  return ack;
}

uint64_t ModelServer::Values() const {
  uint64_t values = 0;
  for (const auto& [name, statistics] : applied_.layers) {
    for (const ChannelStatistics& channel : statistics.channels()) values += channel.range.values();
  }
  return values;
}

v1::ObserveResponse ModelServer::Take(const v1::ObserveRequest& request) {
  absl::Status status;
  v1::ObserveResponse response;
  v1::Refusal* const refusal = response.mutable_refusal();
  if (request.has_register_layers()) {
    const v1::RegisterLayers& layers = request.register_layers();
    if (layers.first_handle() == names_.size()) {
      names_.insert(names_.end(), layers.name().begin(), layers.name().end());
    } else {
      status = MakeError(v1::ERROR_REASON_LAYER_HANDLE_UNKNOWN, "handles out of order");
    }
  } else {
    const v1::Update& update = request.update();
    refusal->set_first(update.first());
    refusal->set_last(update.last());
    if (update.first() == 0 || update.last() < update.first()) {
      status = MakeError(v1::ERROR_REASON_INVALID_FIELD, "no such range of units");
    } else if (update.first() == applied_.unit + 1) {
      status = Apply(update);
      if (status.ok()) applied_.unit = update.last();
    } else if (update.last() > applied_.unit) {
      status =
          MakeError(update.first() > applied_.unit ? v1::ERROR_REASON_SEQUENCE_GAP : v1::ERROR_REASON_SEQUENCE_OVERLAP,
                    "sequence");
    }
  }
  if (status.ok()) {
    *response.mutable_ack() = MakeAck();
    return response;
  }
  refusal->set_applied(applied_.unit);
  refusal->set_code(static_cast<int>(status.code()));
  refusal->set_message(std::string(status.message()));
  *refusal->mutable_info() = GetErrorInfo(status).value();
  return response;
}

absl::StatusOr<LayerStatistics*> ModelServer::FindLayer(uint32_t handle) {
  if (handle >= names_.size()) return MakeError(v1::ERROR_REASON_LAYER_HANDLE_UNKNOWN, "unknown handle");
  const std::string& name = names_[handle];
  if (absl::StartsWith(name, "refused")) {
    return name_refused_layers_ ? MakeError(v1::ERROR_REASON_CHANNEL_COUNT_CHANGED, "refused", {{"layer", name}})
                                : MakeError(v1::ERROR_REASON_LIMIT_EXCEEDED, "refused", {{"option", "--max-channels"}});
  }
  return &applied_.layers.try_emplace(name, ObserverOf(name)).first->second;
}

absl::Status ModelServer::Apply(const v1::Update& update) {
  if (update.has_tensor()) return ApplyTensor(update.tensor());
  const auto kind_of = [&](uint32_t handle) {
    return handle < names_.size() ? ObserverOf(names_[handle]).kind : ObserverKind::kMinMax;
  };
  if (absl::Status status = reader_.Decode(update.statistics(), kind_of); !status.ok()) return status;
  std::vector<LayerStatistics*> layers;
  for (const LayerView& rows : reader_.layers()) {
    const absl::StatusOr<LayerStatistics*> layer = FindLayer(rows.handle);
    if (!layer.ok()) return layer.status();
    if (absl::Status status = CheckMergeRows(rows, **layer); !status.ok()) return status;
    layers.push_back(*layer);
  }
  for (size_t i = 0; i < layers.size(); ++i) MergeRows(reader_.layers()[i], layers[i]);
  return absl::OkStatus();
}

absl::Status ModelServer::ApplyTensor(const v1::TensorChunk& chunk) {
  const absl::StatusOr<LayerStatistics*> layer = FindLayer(chunk.layer());
  if (!layer.ok()) return layer.status();
  const absl::StatusOr<TensorView> tensor = DecodeTensorChunk(chunk);
  if (!tensor.ok()) return tensor.status();
  return observer_.Observe(*tensor, *layer);
}

}  // namespace calib::test
