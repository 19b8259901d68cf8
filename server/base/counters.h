#ifndef CALIB_SERVER_BASE_COUNTERS_H_
#define CALIB_SERVER_BASE_COUNTERS_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace calib::server {

// What the server counts, for /metrics. Engine and rpc add; web reads. Every field is thread-safe and only ever rises,
// gauges apart.
struct Counters {
  using Counter = std::atomic<uint64_t>;
  // Past the largest ErrorReason and gRPC code.
  static constexpr size_t kReasons = 128;
  static constexpr size_t kCodes = 17;
  static constexpr size_t kRpcs = 32;

  // Ingestion.
  Counter updates_applied{0};
  Counter updates_repeated{0};
  Counter values_observed{0};
  Counter values_ignored{0};
  Counter raw_bytes{0};                      // of tensor chunks that were reduced here
  Counter statistics_bytes{0};               // of Update messages with statistics
  std::array<Counter, kReasons> refusals{};  // updates and registrations refused, by ErrorReason

  // Synchronous steps.
  Counter steps_folded{0};
  Counter partial_steps{0};
  Counter failed_steps{0};
  Counter late_contributions{0};
  Counter repeated_contributions{0};

  // Durability.
  Counter checkpoints{0};  // sessions that were committed
  Counter checkpoint_failures{0};
  Counter checkpoint_micros{0};  // time spent in commits
  Counter sessions_expired{0};

  // Calls ended, by the method's index in the service descriptor and gRPC code.
  std::array<std::array<Counter, kCodes>, kRpcs> calls{};

  // Gauges.
  std::atomic<int64_t> sessions{0};
  std::atomic<int64_t> layers{0};
  std::atomic<int64_t> state_bytes{0};
  std::atomic<int64_t> export_bytes{0};       // of statistics that exports under way may keep in memory
  std::atomic<int64_t> export_file_bytes{0};  // of inputs, parameters and files that Export calls hold
  std::atomic<int64_t> streams{0};
  std::atomic<uint64_t> store_bytes{0};       // that the store's files take
  std::atomic<uint64_t> store_free_bytes{0};  // that its file system has left
};

}  // namespace calib::server

#endif  // CALIB_SERVER_BASE_COUNTERS_H_
