#ifndef CALIB_SERVER_RPC_QPARAMS_QUERY_H_
#define CALIB_SERVER_RPC_QPARAMS_QUERY_H_

#include <cstddef>
#include <functional>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "calib/v1/quantization.pb.h"
#include "quant/methods.h"
#include "quant/quant_spec.h"
#include "server/engine/session.h"

namespace calib::server {

// Which layers a query is about: a request's pattern, or all when it is empty. INVALID_FIELD when it is too long.
absl::StatusOr<std::string> LayerPattern(const std::string& pattern);

// A request's method; INVALID_FIELD about `field`.
absl::StatusOr<MethodSpec> RequestedMethod(absl::string_view field, const v1::MethodSpec& method);

// A request's spec; INVALID_FIELD or SPEC_INVALID about `field`.
absl::StatusOr<QuantSpec> RequestedSpec(absl::string_view field, const v1::QuantSpec& spec);

// How a request wants qparams computed.
struct QParamsQuery {
  MethodSpec method;              // absent: minmax
  std::optional<QuantSpec> spec;  // absent: each layer's own
};
// Of a request with the fields `method` and `spec`. Errors as above.
template <typename Request>
absl::StatusOr<QParamsQuery> DecodeQuery(const Request& request) {
  QParamsQuery query;
  if (request.has_method()) {
    const absl::StatusOr<MethodSpec> method = RequestedMethod("method", request.method());
    if (!method.ok()) return method.status();
    query.method = *method;
  }
  if (request.has_spec()) {
    const absl::StatusOr<QuantSpec> spec = RequestedSpec("spec", request.spec());
    if (!spec.ok()) return spec.status();
    query.spec = *spec;
  }
  return query;
}

// One layer's answer. What can't be computed of it is its error field: LAYER_EMPTY, METHOD_NEEDS_HISTOGRAM,
// LAYER_NOT_PER_CHANNEL, SPEC_INVALID (of the layer's own spec), COUNT_OVERFLOW (channels merged). CANCELLED:
// `abandoned`, which is asked before each channel, said so.
absl::StatusOr<v1::LayerQParams> ComputeLayerQParams(const Session::LayerSnapshot& layer, const QParamsQuery& query,
                                                     const std::function<bool()>& abandoned);

// LAYER_NOT_FOUND: none of the session's layers matches.
absl::Status NoLayerMatches(const Session& session, const std::string& pattern);

// Tag and length of one entry of a repeated message field.
inline constexpr size_t kEntryOverhead = 6;

// LIMIT_EXCEEDED: the answer for so many layers would be larger than `limit` bytes.
absl::Status AnswerTooLarge(size_t layers, size_t limit);

}  // namespace calib::server

#endif  // CALIB_SERVER_RPC_QPARAMS_QUERY_H_
