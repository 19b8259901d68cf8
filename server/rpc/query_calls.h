#ifndef CALIB_SERVER_RPC_QUERY_CALLS_H_
#define CALIB_SERVER_RPC_QUERY_CALLS_H_

#include <cstddef>
#include <functional>

#include "absl/status/status.h"
#include "calib/v1/calibration_service.pb.h"
#include "server/engine/engine.h"

namespace calib::server {

// What a query may cost.
struct QueryLimits {
  // Most bytes of an answer; one that would be larger is refused with LIMIT_EXCEEDED.
  size_t max_answer_bytes = 4 << 20;
  // Asked between layers: whether nobody waits for the answer any more. Then the query stops with CANCELLED.
  std::function<bool()> abandoned;
};

// The unary calls that read what was collected; the service's comments say what each does and which errors it has. They
// compute for as long as it takes: not for a gRPC thread.

absl::Status ComputeQParams(const Engine& engine, const v1::ComputeQParamsRequest& request, const QueryLimits& limits,
                            v1::ComputeQParamsResponse* response);
// At most 64 methods x specs.
absl::Status CompareMethods(const Engine& engine, const v1::CompareMethodsRequest& request, const QueryLimits& limits,
                            v1::CompareMethodsResponse* response);
// An answer ends before it passes kPageBytes, unless its first layer alone does.
absl::Status GetStatistics(const Engine& engine, const v1::GetStatisticsRequest& request, const QueryLimits& limits,
                           v1::GetStatisticsResponse* response);

}  // namespace calib::server

#endif  // CALIB_SERVER_RPC_QUERY_CALLS_H_
