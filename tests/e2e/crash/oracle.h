#ifndef CALIB_TESTS_E2E_CRASH_ORACLE_H_
#define CALIB_TESTS_E2E_CRASH_ORACLE_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "client/cpp/client.h"
#include "tests/e2e/crash/workload.h"

namespace calib::test {

// What a server has of a session. Read in several calls: consistent only while nothing streams.
struct ServerState {
  struct Watermarks {
    uint64_t applied = 0;
    uint64_t durable = 0;
  };
  SessionStatistics layers;
  std::map<std::string, Watermarks> workers;  // by id
};
// Errors are the calls'; INTERNAL when an answer can't be decoded.
absl::StatusOr<ServerState> ReadServerState(client::Client* client, const std::string& session);

// Bit for bit; the failure names the layers that differ.
testing::AssertionResult SameStatistics(const SessionStatistics& expected, const SessionStatistics& actual);

// Whether `actual` holds all of `least` and nothing but `greatest`: layer by layer, channel by channel, every counter,
// and the extremes.
testing::AssertionResult Within(const SessionStatistics& least, const SessionStatistics& actual,
                                const SessionStatistics& greatest);

}  // namespace calib::test

#endif  // CALIB_TESTS_E2E_CRASH_ORACLE_H_
