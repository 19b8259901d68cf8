#ifndef CALIB_SERVER_RPC_UNARY_CALL_H_
#define CALIB_SERVER_RPC_UNARY_CALL_H_

#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <cstddef>
#include <functional>

#include "absl/status/status.h"
#include "server/base/counters.h"
#include "server/base/thread_pool.h"
#include "server/rpc/method.h"

namespace calib::server {

class UnaryCalls;

// One unary call, from its arrival to its answer. Deletes itself after the answer.
class UnaryCall final : public grpc::ServerUnaryReactor {
 public:
  // Whether nobody waits for the answer any more: the caller gave up, or its deadline passed. Thread-safe.
  bool abandoned() const { return abandoned_.load(std::memory_order_relaxed); }
  // Sends the response, or the error. Exactly once, from any thread; the call, its request and its response are gone
  // afterwards.
  void Answer(const absl::Status& status);

 private:
  friend class UnaryCalls;
  UnaryCall(UnaryCalls* calls, Method method) : calls_(calls), method_(method) {}

  void OnCancel() override { abandoned_.store(true, std::memory_order_relaxed); }
  void OnDone() override { delete this; }

  UnaryCalls* const calls_;
  const Method method_;
  std::atomic<bool> abandoned_{false};
};

// Runs unary calls on a pool of its owner's, never on gRPC's threads, and counts them. Thread-safe. Must outlive the
// calls.
class UnaryCalls {
 public:
  // At most `max_open` calls are queued or run at once; further ones are refused with LIMIT_EXCEEDED.
  UnaryCalls(ThreadPool* pool, size_t max_open, Counters* counters)
      : pool_(pool), max_open_(max_open), counters_(counters) {}

  // Starts a call: `work` runs on the pool and sees to it that Answer is called, then or later.
  grpc::ServerUnaryReactor* Start(Method method, std::function<void(UnaryCall*)> work);
  // The same for work that has the answer when it returns.
  grpc::ServerUnaryReactor* StartAndAnswer(Method method, std::function<absl::Status(const UnaryCall&)> work);

 private:
  friend class UnaryCall;

  ThreadPool* const pool_;
  const size_t max_open_;
  Counters* const counters_;
  std::atomic<size_t> open_{0};
};

}  // namespace calib::server

#endif  // CALIB_SERVER_RPC_UNARY_CALL_H_
