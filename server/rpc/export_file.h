#ifndef CALIB_SERVER_RPC_EXPORT_FILE_H_
#define CALIB_SERVER_RPC_EXPORT_FILE_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "calib/v1/export.pb.h"
#include "server/rpc/export_memory.h"
#include "server/rpc/export_query.h"

namespace calib::server {

// An Export call's answer.
struct ExportFile {
  std::vector<v1::ExportSummary> summary;  // in parts, as they are sent
  std::string bytes;
};

// Computes the layers' qparams and makes the file: it takes as long as it takes. What it holds is added to `memory`,
// which has the input already. `abandoned` is asked between layers and channels: then the call ends with CANCELLED.
// Once a query. Errors as the call has them.
absl::StatusOr<ExportFile> MakeExportFile(ExportQuery* query, std::string input, ExportMemory* memory,
                                          const std::function<bool()>& abandoned);

}  // namespace calib::server

#endif  // CALIB_SERVER_RPC_EXPORT_FILE_H_
