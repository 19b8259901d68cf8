#ifndef CALIB_TESTS_RPC_EXPORT_FIXTURE_H_
#define CALIB_TESTS_RPC_EXPORT_FIXTURE_H_

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/rpc/rpc_fixture.h"

namespace calib::server {

inline constexpr size_t kMiB = 1 << 20;

inline v1::ExportRequest OptionsRequest(const v1::ExportOptions& options) {
  v1::ExportRequest request;
  *request.mutable_options() = options;
  return request;
}

inline v1::ExportRequest InputRequest(std::string input) {
  v1::ExportRequest request;
  request.set_input(std::move(input));
  return request;
}

inline v1::ExportOptions OptionsOf(v1::ExportFormat format, const std::string& session = "s") {
  v1::ExportOptions options;
  options.set_session(session);
  options.set_format(format);
  return options;
}

class ExportRpcTest : public RpcTest {
 protected:
  explicit ExportRpcTest(uint64_t max_bytes = 8 * kMiB) : RpcTest(Options(max_bytes)) {}
  static test::InProcessServerOptions Options(uint64_t max_bytes) {
    test::InProcessServerOptions options;
    options.engine.limits.max_streams = 4;
    options.grpc.export_limits = {.max_input_bytes = 2 * kMiB, .max_bytes = max_bytes};
    return options;
  }

  // A call's whole answer.
  struct Answer {
    grpc::Status status;
    v1::ExportSummary summary;
    size_t summary_messages = 0;
    std::string file;
    size_t largest_chunk = 0;
  };
  Answer Send(const std::vector<v1::ExportRequest>& requests) {
    const std::unique_ptr<grpc::ClientContext> context = TestContext();
    const auto stream = stub_->Export(context.get());
    for (const v1::ExportRequest& request : requests) {
      if (!stream->Write(request)) break;
    }
    stream->WritesDone();
    Answer answer;
    v1::ExportResponse response;
    while (stream->Read(&response)) {
      if (response.has_summary()) {
        EXPECT_EQ(answer.file, "") << "a summary after the file began";
        ++answer.summary_messages;
        answer.summary.MergeFrom(response.summary());
      } else {
        answer.file += response.chunk();
        answer.largest_chunk = std::max(answer.largest_chunk, response.chunk().size());
      }
    }
    answer.status = stream->Finish();
    return answer;
  }
  Answer Export(const v1::ExportOptions& options) { return Send({OptionsRequest(options)}); }
  grpc::Status Refusal(const v1::ExportOptions& options) {
    const Answer answer = Export(options);
    EXPECT_EQ(answer.summary_messages, 0u);
    EXPECT_EQ(answer.file, "");
    return answer.status;
  }
  void ExpectNothingHeld() {
    EXPECT_TRUE(Eventually([this] { return server_.engine().counters().streams == 0; }));
    EXPECT_TRUE(Eventually([this] { return server_.engine().counters().export_file_bytes == 0; }));
  }
};

// With room for files of several chunks.
class LargeExportRpcTest : public ExportRpcTest {
 protected:
  LargeExportRpcTest() : ExportRpcTest(64 * kMiB) {}
};

}  // namespace calib::server

#endif  // CALIB_TESTS_RPC_EXPORT_FIXTURE_H_
