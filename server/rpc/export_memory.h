#ifndef CALIB_SERVER_RPC_EXPORT_MEMORY_H_
#define CALIB_SERVER_RPC_EXPORT_MEMORY_H_

#include <cstdint>

#include "absl/status/status.h"
#include "server/base/counters.h"

namespace calib::server {

// What Export calls may hold.
struct ExportLimits {
  uint64_t max_input_bytes = 256ull << 20;  // --max-export-input-bytes, of one call
  // --max-export-bytes, of all calls: inputs, parameters and files, and what is made meanwhile.
  uint64_t max_bytes = 2ull << 30;
};

// The memory that one Export call holds, counted in counters->export_file_bytes until it is gone. Not thread-safe; the
// calls of a process share the counters.
class ExportMemory {
 public:
  ExportMemory(const ExportLimits& limits, Counters* counters) : limits_(limits), counters_(counters) {}
  ~ExportMemory() { Drop(); }
  ExportMemory(const ExportMemory&) = delete;
  ExportMemory& operator=(const ExportMemory&) = delete;

  // More of the input; more of anything. LIMIT_EXCEEDED: it is not counted.
  absl::Status AddInput(uint64_t bytes);
  absl::Status Add(uint64_t bytes);
  // Nothing is held any more.
  void Drop();

 private:
  const ExportLimits limits_;
  Counters* const counters_;
  uint64_t input_bytes_ = 0;
  uint64_t bytes_ = 0;
};

}  // namespace calib::server

#endif  // CALIB_SERVER_RPC_EXPORT_MEMORY_H_
