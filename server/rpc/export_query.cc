#include "server/rpc/export_query.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/codec/config_codec.h"
#include "proto/codec/error.h"
#include "proto/codec/export_format.h"
#include "proto/codec/quantization_codec.h"
#include "server/engine/validate.h"

namespace calib::server {
namespace {

constexpr char kDefaultWeightPattern[] = "*.weight";

// `spec` with what is not set in it taken from `expected`.
v1::QuantSpec WithDefaults(v1::QuantSpec spec, const QuantSpec& expected) {
  const v1::QuantSpec defaults = EncodeQuantSpec(expected);
  const bool is_float = spec.type() == v1::QUANT_TYPE_FP8_E4M3 || spec.type() == v1::QUANT_TYPE_FP8_E5M2;
  if (spec.scheme() == v1::QUANT_SCHEME_UNSPECIFIED) {
    spec.set_scheme(is_float ? v1::QUANT_SCHEME_SYMMETRIC : defaults.scheme());
  }
  if (spec.type() == v1::QUANT_TYPE_UNSPECIFIED) spec.set_type(defaults.type());
  if (spec.preset() == v1::QUANT_PRESET_UNSPECIFIED) spec.set_preset(defaults.preset());
  if (spec.granularity() == v1::QUANT_GRANULARITY_UNSPECIFIED) spec.set_granularity(defaults.granularity());
  return spec;
}

absl::StatusOr<QParamsQuery> Decode(absl::string_view prefix, bool has_method, const v1::MethodSpec& method,
                                    bool has_spec, const v1::QuantSpec& spec,
                                    const std::optional<QuantSpec>& expected) {
  QParamsQuery query;
  if (has_method) {
    const absl::StatusOr<MethodSpec> decoded = RequestedMethod(absl::StrCat(prefix, "method"), method);
    if (!decoded.ok()) return decoded.status();
    query.method = *decoded;
  }
  if (!has_spec) {
    query.spec = expected;
    return query;
  }
  const absl::StatusOr<QuantSpec> decoded =
      RequestedSpec(absl::StrCat(prefix, "spec"), expected.has_value() ? WithDefaults(spec, *expected) : spec);
  if (!decoded.ok()) return decoded.status();
  query.spec = *decoded;
  return query;
}

}  // namespace

absl::StatusOr<ExportQuery> DecodeExport(const Engine& engine, const v1::ExportOptions& options) {
  ExportQuery query{.options = options, .exporter = NewExporter(options.format())};
  if (query.exporter == nullptr) {
    return InvalidField("format", absl::StrCat("no format has the number ", static_cast<int>(options.format()),
                                               options.format() == v1::EXPORT_FORMAT_UNSPECIFIED
                                                   ? ": it is not set"
                                                   : "; the server may be older than the client"));
  }
  const ExportConventions conventions = query.exporter->conventions();
  const absl::StatusOr<QParamsQuery> activations =
      Decode("", options.has_method(), options.method(), options.has_spec(), options.spec(), conventions.activations);
  if (!activations.ok()) return activations.status();
  query.activations = *activations;
  const absl::StatusOr<QParamsQuery> weights =
      Decode("weight_", options.has_weight_method(), options.weight_method(), options.has_weight_spec(),
             options.weight_spec(), conventions.weights);
  if (!weights.ok()) return weights.status();
  query.weights = *weights;
  query.weights_as_observed =
      conventions.weights_per_channel && options.weight_spec().granularity() == v1::QUANT_GRANULARITY_UNSPECIFIED;

  *query.options.mutable_weight_method() = EncodeMethodSpec(weights->method);
  if (weights->spec.has_value()) *query.options.mutable_weight_spec() = EncodeQuantSpec(*weights->spec);
  if (query.weights_as_observed) query.options.mutable_weight_spec()->clear_granularity();

  const absl::StatusOr<std::string> pattern = LayerPattern(options.pattern());
  if (!pattern.ok()) return pattern.status();
  query.pattern = *pattern;
  query.weight_pattern = options.weight_pattern().empty() ? kDefaultWeightPattern : options.weight_pattern();
  if (absl::Status status = CheckPattern("weight_pattern", query.weight_pattern); !status.ok()) return status;

  absl::StatusOr<std::shared_ptr<Session>> session = engine.FindSession(options.session());
  if (!session.ok()) return session.status();
  query.session = *std::move(session);
  if (query.session->ListLayers(query.pattern, "", 1).empty()) return NoLayerMatches(*query.session, query.pattern);
  query.names.insert(options.name().begin(), options.name().end());
  for (const auto& [layer, name] : query.names) {
    if (const absl::Status found = query.session->GetLayer(layer).status(); !found.ok()) {
      return InvalidField("name", absl::StrCat("the session has no layer ", Quoted(layer), ", which is to be called ",
                                               Quoted(name), ": correct or remove the entry"));
    }
  }
  return query;
}

absl::Status CheckInput(const ExportQuery& query, bool has_input) {
  const std::string format(ExportFormatName(query.options.format()));
  switch (query.exporter->conventions().input) {
    case ExportConventions::Input::kNone:
      if (!has_input) break;
      return InvalidField("input", absl::StrCat("format ", format, " is made of the session alone; send no input"));
    case ExportConventions::Input::kOptional:
      break;
    case ExportConventions::Input::kRequired:
      if (has_input) break;
      return InvalidField("input", absl::StrCat("is missing: format ", format, " is made of a float model; send one"));
  }
  return absl::OkStatus();
}

QParamsQuery QueryOf(const ExportQuery& query, const Session::LayerSnapshot& layer, bool is_weight) {
  if (!is_weight) return query.activations;
  QParamsQuery weights = query.weights;
  if (query.weights_as_observed && weights.spec.has_value() && layer.statistics.config().channel_axis.has_value()) {
    weights.spec->granularity = QuantGranularity::kPerChannel;
  }
  return weights;
}

}  // namespace calib::server
