#ifndef CALIB_SERVER_RPC_EXPORT_QUERY_H_
#define CALIB_SERVER_RPC_EXPORT_QUERY_H_

#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "calib/v1/export.pb.h"
#include "server/engine/engine.h"
#include "server/engine/session.h"
#include "server/export/exporter.h"
#include "server/rpc/qparams_query.h"

namespace calib::server {

// An Export call's options, checked as far as that goes without the input.
struct ExportQuery {
  v1::ExportOptions options;
  std::shared_ptr<Session> session;
  std::unique_ptr<Exporter> exporter;
  std::string pattern;
  std::string weight_pattern;
  QParamsQuery activations;
  QParamsQuery weights;
  // Weights observed per channel are asked for so, whatever weights.spec says.
  bool weights_as_observed = false;
  std::map<std::string, std::string> names;  // in the file, by layer
};

// INVALID_FIELD, SPEC_INVALID, SESSION_NOT_FOUND, and LAYER_NOT_FOUND when no layer matches.
absl::StatusOr<ExportQuery> DecodeExport(const Engine& engine, const v1::ExportOptions& options);

// INVALID_FIELD: the format takes no input and this is one, or it needs one.
absl::Status CheckInput(const ExportQuery& query, bool has_input);

// How the qparams of a layer are asked for.
QParamsQuery QueryOf(const ExportQuery& query, const Session::LayerSnapshot& layer, bool is_weight);

}  // namespace calib::server

#endif  // CALIB_SERVER_RPC_EXPORT_QUERY_H_
