#ifndef CALIB_SERVER_RPC_METHOD_H_
#define CALIB_SERVER_RPC_METHOD_H_

#include <grpcpp/support/status.h>

#include <cstddef>

#include "server/base/counters.h"

namespace calib::server {

// The service's calls, by their index in its descriptor.
enum class Method : size_t {
  kCreateSession,
  kGetSession,
  kListSessions,
  kSealSession,
  kDeleteSession,
  kSetObserversEnabled,
  kSetQParams,
  kSetWorld,
  kObserve,
  kFlush,
  kComputeQParams,
  kCompareMethods,
  kGetStatistics,
  kWatchQParams,
  kExportState,
  kImportState,
  kExport,
};

// REQUIRES: one of gRPC's 17 codes.
inline void CountCall(Counters* counters, Method method, grpc::StatusCode code) {
  counters->calls[static_cast<size_t>(method)][static_cast<size_t>(code)].fetch_add(1, std::memory_order_relaxed);
}

}  // namespace calib::server

#endif  // CALIB_SERVER_RPC_METHOD_H_
