#include "server/export/safetensors_config.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/export/checks.h"
#include "server/export/json_text.h"

namespace calib::server {
namespace {

Json ArgsJson(const QuantizationArgs& args) {
  return {{"num_bits", args.num_bits},
          {"type", args.type},
          {"symmetric", args.symmetric},
          {"strategy", args.strategy},
          {"dynamic", false}};
}

absl::Status CheckType(const ExportTensor& tensor) {
  const v1::LayerQParams& qparams = tensor.qparams;
  const QuantType type = TypeOf(qparams);
  if (type.kind == CodeKind::kFloat8E4M3) return absl::OkStatus();
  if (type.kind != CodeKind::kInteger || !type.is_signed || (type.bits != 8 && type.bits != 4)) {
    return NotExportable(tensor, absl::StrCat("its type is ", type.Name(),
                                              ", and compressed-tensors has fp8_e4m3, int8 and int4; ask for one"));
  }
  // Without a zero point the least code may be missing.
  const bool whole = qparams.qmax() == type.qmax() && qparams.qmin() <= type.qmin() + (IsSymmetric(qparams) ? 1 : 0);
  if (whole) return absl::OkStatus();
  return NotExportable(
      tensor, absl::StrCat("its codes are ", qparams.qmin(), " to ", qparams.qmax(),
                           ", and compressed-tensors takes all of ", type.Name(), "; ask without a reduced range"));
}

}  // namespace

std::string QuantizationArgs::ToString() const {
  return absl::StrCat(symmetric ? "symmetric " : "asymmetric ", type, num_bits, " per ", strategy);
}

absl::StatusOr<QuantizationArgs> ArgsOf(const ExportTensor& tensor, ScaleRole role) {
  const v1::LayerQParams& qparams = tensor.qparams;
  if (absl::Status status = CheckType(tensor); !status.ok()) return status;
  const QuantType type = TypeOf(qparams);
  QuantizationArgs args{
      .num_bits = type.bits, .type = IsFloat8(type.kind) ? "float" : "int", .symmetric = IsSymmetric(qparams)};
  if (role == ScaleRole::kKvCache && !args.symmetric) {
    return NotExportable(tensor, "it is a KV cache, whose scales have no zero point; ask for a symmetric type");
  }
  if (!IsPerChannel(qparams)) return args;
  switch (role) {
    case ScaleRole::kInput:
      if (absl::Status status = CheckPerTensor(tensor); !status.ok()) return status;
      break;
    case ScaleRole::kWeight:
      if (!qparams.has_channel_axis() || qparams.channel_axis() != 0) {
        return NotExportable(tensor, "its channels are not axis 0, the output channels; ask per tensor");
      }
      args.strategy = "channel";
      break;
    case ScaleRole::kKvCache:
      args.strategy = "attn_head";
      break;
  }
  return args;
}

std::string QuantizationConfigText(const std::optional<QuantizationArgs>& inputs,
                                   const std::optional<QuantizationArgs>& weights,
                                   const std::optional<QuantizationArgs>& kv_cache) {
  Json groups = Json::object();
  const char* format = "dense";
  if (inputs.has_value() || weights.has_value()) {
    Json group = {{"targets", {"Linear"}}};
    if (weights.has_value()) group["weights"] = ArgsJson(*weights);
    if (inputs.has_value()) group["input_activations"] = ArgsJson(*inputs);
    groups["group_0"] = std::move(group);
    const QuantizationArgs& any = weights.has_value() ? *weights : *inputs;
    format = std::strcmp(any.type, "float") == 0 ? "float-quantized" : "int-quantized";
  }
  Json config = {{"quant_method", "compressed-tensors"},
                 {"format", format},
                 {"quantization_status", "compressed"},
                 {"config_groups", std::move(groups)},
                 {"ignore", Json::array()}};
  config["kv_cache_scheme"] = kv_cache.has_value() ? ArgsJson(*kv_cache) : Json(nullptr);
  return config.dump();
}

}  // namespace calib::server
