#include "client/cli/json_output.h"

#include <cmath>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "google/protobuf/util/json_util.h"
#include "google/protobuf/util/time_util.h"
#include "proto/codec/quantization_codec.h"
#include "quant/observer_config.h"

namespace calib::cli {
namespace {

Json Number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

template <typename Values>
Json Numbers(const Values& values) {
  Json array = Json::array();
  for (const double value : values) array.push_back(Number(value));
  return array;
}

}  // namespace

std::string ToLine(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

std::string TypeName(const v1::QuantSpec& spec) {
  const absl::StatusOr<QuantSpec> decoded = DecodeQuantSpec(spec);
  return decoded.ok() ? decoded->type.Name() : absl::StrCat("type ", static_cast<int>(spec.type()));
}

std::string MethodName(const v1::MethodSpec& method) {
  const absl::StatusOr<MethodSpec> decoded = DecodeMethodSpec(method);
  return decoded.ok() ? std::string(calib::MethodName(decoded->method))
                      : absl::StrCat("method ", static_cast<int>(method.method()));
}

std::string ObserverName(const v1::ObserverConfig& observer) {
  if (!v1::ObserverKind_IsValid(observer.kind()) || observer.kind() == v1::OBSERVER_KIND_UNSPECIFIED) {
    return absl::StrCat("observer ", static_cast<int>(observer.kind()));
  }
  return std::string(ObserverKindName(static_cast<ObserverKind>(observer.kind() - 1)));
}

Json ToJson(const v1::LayerQParams& layer) {
  Json json = {{"layer", layer.layer()},
               {"method", MethodName(layer.method())},
               {"dtype", TypeName(layer.spec())},
               {"symmetric", layer.spec().scheme() != v1::QUANT_SCHEME_AFFINE}};
  if (layer.has_error()) {
    json["error"] = {{"reason", layer.error().info().reason()}, {"message", layer.error().message()}};
    return json;
  }
  json["scale"] = Numbers(layer.scale());
  json["zero_point"] = std::vector<int64_t>(layer.zero_point().begin(), layer.zero_point().end());
  json["qmin"] = layer.qmin();
  json["qmax"] = layer.qmax();
  json["min"] = Number(layer.min());
  json["max"] = Number(layer.max());
  json["clip_min"] = Numbers(layer.clip_min());
  json["clip_max"] = Numbers(layer.clip_max());
  json["count"] = layer.count();
  json["nan"] = layer.nan();
  json["inf"] = layer.inf();
  json["mse"] = layer.has_mse() ? Number(layer.mse()) : Json(nullptr);
  json["sqnr_db"] = layer.has_sqnr_db() ? Number(layer.sqnr_db()) : Json(nullptr);
  json["clipped"] = layer.has_clipped() ? Number(layer.clipped()) : Json(nullptr);
  return json;
}

Json ToJson(const v1::Session& session) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  std::string config;
  Json config_json;
  if (google::protobuf::util::MessageToJsonString(session.config(), &config, options).ok()) {
    config_json = Json::parse(config, nullptr, /*allow_exceptions=*/false);
  }
  Json imported = Json::array();
  for (const v1::ImportedState& state : session.imported()) {
    imported.push_back({{"digest", state.digest()}, {"sessions", state.sessions()}});
  }
  return {{"session", session.name()},
          {"config", config_json},
          {"create_time", google::protobuf::util::TimeUtil::ToString(session.create_time())},
          {"sealed", session.sealed()},
          {"layer_count", session.layer_count()},
          {"worker_count", session.worker_count()},
          {"updates_applied", session.updates_applied()},
          {"values", session.values()},
          {"values_ignored", session.values_ignored()},
          {"state_bytes", session.state_bytes()},
          {"incomplete", session.incomplete()},
          {"uid", session.uid()},
          {"update_time", google::protobuf::util::TimeUtil::ToString(session.update_time())},
          {"imported", std::move(imported)},
          {"synchronous", session.has_synchronous() ? ToJson(session.synchronous()) : Json(nullptr)}};
}

Json ToJson(const v1::LayerSummary& layer) {
  Json json = {{"layer", layer.layer()}, {"observer", ObserverName(layer.observer())}};
  json["channel_axis"] = layer.observer().has_channel_axis() ? Json(layer.observer().channel_axis()) : Json(nullptr);
  json["channels"] = layer.channels();
  json["enabled"] = layer.enabled();
  json["count"] = layer.count();
  json["nan"] = layer.nan();
  json["inf"] = layer.inf();
  json["min"] = layer.count() > 0 ? Number(layer.min()) : Json(nullptr);
  json["max"] = layer.count() > 0 ? Number(layer.max()) : Json(nullptr);
  json["workers"] = layer.workers();
  return json;
}

Json ToJson(const v1::WorkerStatus& worker) {
  return {{"worker_id", worker.worker_id()}, {"incarnation", worker.incarnation()},
          {"applied", worker.applied()},     {"durable", worker.durable()},
          {"connected", worker.connected()}, {"rank", worker.has_rank() ? Json(worker.rank()) : Json(nullptr)},
          {"step", worker.step()},           {"lost", worker.lost()}};
}

Json ToJson(const v1::SynchronousStatus& status) {
  return {{"world_epoch", status.world().epoch()},
          {"world_size", status.world().size()},
          {"folded_step", status.folded_step()},
          {"durable_step", status.durable_step()},
          {"open_steps", status.open_steps()},
          {"missing_rank", std::vector<uint32_t>(status.missing_rank().begin(), status.missing_rank().end())},
          {"missing_ranks", status.missing_ranks()},
          {"open_for_ms", google::protobuf::util::TimeUtil::DurationToMilliseconds(status.open_for())},
          {"partial_steps", status.partial_steps()},
          {"failed_steps", status.failed_steps()},
          {"late_contributions", status.late_contributions()},
          {"repeated_contributions", status.repeated_contributions()}};
}

}  // namespace calib::cli
