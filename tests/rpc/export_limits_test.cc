// What Export calls may hold.

#include <gmock/gmock.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/rpc/export_fixture.h"

namespace calib::server {
namespace {

TEST_F(ExportRpcTest, InputsAndFilesAreBounded) {
  Push("s", {"a"}, {1, 2});
  const v1::ExportRequest ncnn = OptionsRequest(OptionsOf(v1::EXPORT_FORMAT_NCNN));
  const v1::ExportRequest chunk = InputRequest(std::string(kMiB, ' '));
  grpc::Status status = Send({ncnn, chunk, chunk, InputRequest("x")}).status;
  EXPECT_REASON(status, LIMIT_EXCEEDED, RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), ::testing::HasSubstr("--max-export-input-bytes"));
  ExpectNothingHeld();

  // Two inputs that wait leave no room to work on a third.
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReaderWriter<v1::ExportRequest, v1::ExportResponse>>> waiting;
  for (int i = 0; i < 2; ++i) {
    contexts.push_back(TestContext());
    waiting.push_back(stub_->Export(contexts.back().get()));
    for (const v1::ExportRequest& request : {ncnn, chunk, chunk}) ASSERT_TRUE(waiting.back()->Write(request));
  }
  ASSERT_TRUE(Eventually([this] { return server_.engine().counters().export_file_bytes == 4 * kMiB; }));
  status = Send({ncnn, chunk, chunk}).status;
  EXPECT_REASON(status, LIMIT_EXCEEDED, RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), ::testing::HasSubstr("--max-export-bytes"));
  EXPECT_EQ(server_.engine().counters().export_file_bytes, int64_t{4 * kMiB});
  for (const auto& context : contexts) context->TryCancel();
  for (const auto& stream : waiting) EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  ExpectNothingHeld();
}

TEST_F(ExportRpcTest, WhatReadingAnInputTakesIsBounded) {
  Push("s", {"a"}, {1, 2});
  // A model of 50000 empty nodes, 100 KB, of which the parser makes 8 MB.
  std::string model("\x3a\xa0\x8d\x06", 4);
  for (int i = 0; i < 50000; ++i) model += std::string("\x0a\0", 2);
  grpc::Status status = Send({OptionsRequest(OptionsOf(v1::EXPORT_FORMAT_ONNX_QDQ)), InputRequest(model)}).status;
  EXPECT_REASON(status, LIMIT_EXCEEDED, RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), ::testing::HasSubstr("--max-export-bytes"));
  // A table of 50000 comments.
  std::string table;
  for (int i = 0; i < 50000; ++i) table += "#\n";
  status = Send({OptionsRequest(OptionsOf(v1::EXPORT_FORMAT_NCNN)), InputRequest(table)}).status;
  EXPECT_REASON(status, LIMIT_EXCEEDED, RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), ::testing::HasSubstr("--max-export-bytes"));
  ExpectNothingHeld();
}

TEST_F(ExportRpcTest, WhatWritingTakesIsBounded) {
  // 1 MB of parameters, a file of 2 MB as JSON, of which 3 MB of objects are made first.
  Push("s", {"ema_channels/a"}, std::vector<float>(20'000, 0.1f));
  v1::ExportOptions options = OptionsOf(v1::EXPORT_FORMAT_JSON);
  options.mutable_spec()->set_granularity(v1::QUANT_GRANULARITY_PER_CHANNEL);
  const grpc::Status status = Refusal(options);
  EXPECT_REASON(status, LIMIT_EXCEEDED, RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), ::testing::HasSubstr("--max-export-bytes"));
  ExpectNothingHeld();
  // What is written as it stands takes less.
  options.set_format(v1::EXPORT_FORMAT_CSV);
  const Answer answer = Export(options);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_GT(answer.file.size(), kMiB);
  ExpectNothingHeld();
}

TEST_F(ExportRpcTest, StreamsAreCounted) {
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReaderWriter<v1::ExportRequest, v1::ExportResponse>>> open;
  for (int i = 0; i < 4; ++i) {
    contexts.push_back(TestContext());
    open.push_back(stub_->Export(contexts.back().get()));
  }
  ASSERT_TRUE(Eventually([this] { return server_.engine().counters().streams == 4; }));
  EXPECT_REASON(Refusal(OptionsOf(v1::EXPORT_FORMAT_JSON)), LIMIT_EXCEEDED, RESOURCE_EXHAUSTED);
  for (const auto& context : contexts) context->TryCancel();
  for (const auto& stream : open) EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  ExpectNothingHeld();
}

}  // namespace
}  // namespace calib::server
