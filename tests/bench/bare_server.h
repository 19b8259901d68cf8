#ifndef CALIB_TESTS_BENCH_BARE_SERVER_H_
#define CALIB_TESTS_BENCH_BARE_SERVER_H_

namespace calib::bench {

// What calibd's ingestion is compared with: a gRPC server of the same service whose Observe reads each message and
// drops it, and ends when the client half-closes. Callback API, the same message limit, nothing else; with
// `keep_freed_memory` its malloc is set as calibd's is. Prints its port as one line on stdout, then serves until stdin
// closes. Returns the exit code.
int RunBareServer(bool keep_freed_memory);

}  // namespace calib::bench

#endif  // CALIB_TESTS_BENCH_BARE_SERVER_H_
