// Export: every outcome, and what becomes of calls that end early.

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/rpc/export_fixture.h"

namespace calib::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST_F(ExportRpcTest, AFileOfTheSession) {
  Push("s", {"b", "range/a"}, {-1, 0.5});
  const Answer answer = Export(OptionsOf(v1::EXPORT_FORMAT_TENSORRT_CACHE));
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.file, "TRT-100300-EntropyCalibration2\nb: 3c010204\nrange/a: 3c010204\n");
  EXPECT_THAT(answer.summary.layer(), ElementsAre("b", "range/a"));
  EXPECT_EQ(answer.summary.bytes(), answer.file.size());
  EXPECT_FALSE(answer.summary.incomplete());
  EXPECT_EQ(answer.summary.omitted_size() + answer.summary.from_input_size(), 0);
  EXPECT_EQ(Export(OptionsOf(v1::EXPORT_FORMAT_TENSORRT_CACHE)).file, answer.file);
  ExpectNothingHeld();
}

TEST_F(ExportRpcTest, PatternNamesAndSpecs) {
  Push("s", {"a", "b"}, {-1, 0.5});
  v1::ExportOptions options = OptionsOf(v1::EXPORT_FORMAT_CSV);
  options.set_pattern("b");
  (*options.mutable_name())["a"] = "not exported";
  (*options.mutable_name())["b"] = "c";
  options.mutable_spec()->set_type(v1::QUANT_TYPE_UINT8);
  options.mutable_spec()->set_scheme(v1::QUANT_SCHEME_AFFINE);
  const Answer answer = Export(options);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_THAT(answer.file, HasSubstr("\nb,c,false,0,,minmax,uint8,false,"));
  EXPECT_THAT(answer.summary.layer(), ElementsAre("b"));

  // What is not set in a spec is the format's: preset onnxruntime and the affine scheme here.
  options = OptionsOf(v1::EXPORT_FORMAT_ONNXRUNTIME_OVERRIDES);
  options.mutable_spec()->set_type(v1::QUANT_TYPE_UINT4);
  EXPECT_THAT(Export(options).file, HasSubstr("\"zero_point\": 10"));
  // FP8 has the symmetric scheme alone.
  options.mutable_spec()->set_type(v1::QUANT_TYPE_FP8_E4M3);
  EXPECT_THAT(Export(options).file, HasSubstr("\"zero_point\": 0"));
}

TEST_F(ExportRpcTest, WeightsHaveTheirOwnMethodAndSpec) {
  ObserveClient client(stub_.get());
  client.Open("s", "w");
  client.Write(RegisterMessage(0, {"channels/fc.weight"}));
  v1::ObserveRequest request = RawMessage(1, 1, 0, {-1.27f, 1, -0.5f, 2.54f});
  request.mutable_update()->mutable_tensor()->clear_shape();
  request.mutable_update()->mutable_tensor()->add_shape(2);
  request.mutable_update()->mutable_tensor()->add_shape(2);
  client.Write(request);
  client.WritesDone();
  ASSERT_TRUE(client.Finish().ok());
  Push("s", {"fc"}, {-1, 1});
  v1::ExportOptions options = OptionsOf(v1::EXPORT_FORMAT_AIMET_1_0_0);
  Answer answer = Export(options);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_THAT(answer.file, HasSubstr("\"enc_type\": \"PER_CHANNEL\""));
  EXPECT_TRUE(absl::StrContains(answer.file, "0.01,\n    0.02\n")) << answer.file;

  options.mutable_weight_spec()->set_granularity(v1::QUANT_GRANULARITY_PER_TENSOR);
  options.mutable_weight_spec()->set_type(v1::QUANT_TYPE_INT4);
  answer = Export(options);
  EXPECT_THAT(answer.file, HasSubstr("\"bw\": 4"));
  EXPECT_FALSE(absl::StrContains(answer.file, "PER_CHANNEL"));

  options.set_weight_pattern("nothing");
  answer = Export(options);
  EXPECT_THAT(answer.file, HasSubstr("\"param_encodings\": []"));
}

TEST_F(ExportRpcTest, RefusedOptions) {
  Push("s", {"a"}, {1, 2});
  EXPECT_REASON(Refusal(OptionsOf(v1::EXPORT_FORMAT_UNSPECIFIED)), INVALID_FIELD, INVALID_ARGUMENT);
  EXPECT_REASON(Refusal(OptionsOf(static_cast<v1::ExportFormat>(99))), INVALID_FIELD, INVALID_ARGUMENT);
  EXPECT_REASON(Refusal(OptionsOf(v1::EXPORT_FORMAT_JSON, "nowhere")), SESSION_NOT_FOUND, NOT_FOUND);
  v1::ExportOptions options = OptionsOf(v1::EXPORT_FORMAT_JSON);
  options.set_pattern("x*");
  EXPECT_REASON(Refusal(options), LAYER_NOT_FOUND, NOT_FOUND);
  options.set_pattern(std::string(10000, '*'));
  EXPECT_REASON(Refusal(options), INVALID_FIELD, INVALID_ARGUMENT);
  options = OptionsOf(v1::EXPORT_FORMAT_JSON);
  options.set_weight_pattern(std::string(10000, '*'));
  EXPECT_REASON(Refusal(options), INVALID_FIELD, INVALID_ARGUMENT);
  options = OptionsOf(v1::EXPORT_FORMAT_JSON);
  (*options.mutable_name())["nothing"] = "b";
  EXPECT_REASON(Refusal(options), INVALID_FIELD, INVALID_ARGUMENT);
  EXPECT_THAT(Refusal(options).error_message(), HasSubstr("no layer \"nothing\""));
  options = OptionsOf(v1::EXPORT_FORMAT_JSON);
  options.mutable_weight_method()->set_method(v1::CALIBRATION_METHOD_MSE);
  options.mutable_weight_method()->set_percentile(3);
  EXPECT_THAT(Refusal(options).error_message(), HasSubstr("weight_method.percentile: "));
  options = OptionsOf(v1::EXPORT_FORMAT_TENSORRT_CACHE);
  options.mutable_spec()->set_scheme(v1::QUANT_SCHEME_AFFINE);
  EXPECT_REASON(Refusal(options), SPEC_INVALID, INVALID_ARGUMENT);
  options = OptionsOf(v1::EXPORT_FORMAT_TENSORRT_CACHE);
  options.mutable_tensorrt_cache()->set_version("latest");
  EXPECT_REASON(Refusal(options), INVALID_FIELD, INVALID_ARGUMENT);
  Push("s", {"b"}, {1, 2});
  options = OptionsOf(v1::EXPORT_FORMAT_JSON);
  (*options.mutable_name())["a"] = "b";
  EXPECT_REASON(Refusal(options), INVALID_FIELD, INVALID_ARGUMENT);
  EXPECT_THAT(Refusal(options).error_message(), HasSubstr("layers \"a\" and \"b\" would both be called \"b\""));
  ExpectNothingHeld();
}

TEST_F(ExportRpcTest, WhatTheFileCantHave) {
  Push("s", {"a", "a:b", "zeros"}, {0, 0});
  Push("s", {"a", "a:b"}, {-1, 0.5});
  Push("s", {"nan"}, {std::numeric_limits<float>::quiet_NaN()});
  v1::ExportOptions options = OptionsOf(v1::EXPORT_FORMAT_TENSORRT_CACHE);
  EXPECT_REASON(Refusal(options), NOT_EXPORTABLE, FAILED_PRECONDITION);
  options.set_pattern("nan");
  EXPECT_REASON(Refusal(options), LAYER_EMPTY, FAILED_PRECONDITION);
  options.clear_pattern();
  options.set_skip_unexportable(true);
  const Answer answer = Export(options);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.file, "TRT-100300-EntropyCalibration2\na: 3c010204\n");
  EXPECT_THAT(answer.summary.layer(), ElementsAre("a"));
  std::vector<std::string> omitted;
  for (const v1::OmittedLayer& layer : answer.summary.omitted()) {
    omitted.push_back(absl::StrCat(layer.layer(), " ", layer.reason().info().reason()));
    EXPECT_THAT(layer.reason().message(), HasSubstr(layer.layer()));
  }
  EXPECT_THAT(omitted, ElementsAre("a:b NOT_EXPORTABLE", "nan LAYER_EMPTY", "zeros NOT_EXPORTABLE"));

  options.set_pattern("*:*");
  EXPECT_REASON(Refusal(options), NOT_EXPORTABLE, FAILED_PRECONDITION);
  EXPECT_THAT(Refusal(options).error_message(), HasSubstr("none of the 1 layers"));
  options.set_pattern("range/*");
  Push("s", {"range/x"}, {1, 2});
  options.mutable_method()->set_method(v1::CALIBRATION_METHOD_MSE);
  options.set_skip_unexportable(false);
  EXPECT_REASON(Refusal(options), METHOD_NEEDS_HISTOGRAM, FAILED_PRECONDITION);
  ExpectNothingHeld();
}

TEST_F(ExportRpcTest, PassiveLayersHaveWhatWasSet) {
  v1::SetQParamsRequest set;
  set.set_session("s");
  set.set_layer("passive/a");
  set.add_scale(0.5f);
  v1::SetQParamsResponse response;
  ASSERT_TRUE(Call(stub_.get(), &v1::Calibration::Stub::SetQParams, set, &response).ok());
  EXPECT_THAT(Export(OptionsOf(v1::EXPORT_FORMAT_TENSORRT_CACHE)).file, HasSubstr("\npassive/a: 3f000000\n"));
}

TEST_F(ExportRpcTest, MalformedStreams) {
  Push("s", {"a"}, {1, 2});
  const v1::ExportRequest json = OptionsRequest(OptionsOf(v1::EXPORT_FORMAT_JSON));
  const v1::ExportRequest ncnn = OptionsRequest(OptionsOf(v1::EXPORT_FORMAT_NCNN));
  const v1::ExportRequest onnx = OptionsRequest(OptionsOf(v1::EXPORT_FORMAT_ONNX_QDQ));
  EXPECT_REASON(Send({}).status, INVALID_FIELD, INVALID_ARGUMENT);
  EXPECT_REASON(Send({InputRequest("x")}).status, INVALID_FIELD, INVALID_ARGUMENT);
  EXPECT_REASON(Send({v1::ExportRequest()}).status, INVALID_FIELD, INVALID_ARGUMENT);
  EXPECT_REASON(Send({ncnn, ncnn}).status, INVALID_FIELD, INVALID_ARGUMENT);
  EXPECT_REASON(Send({ncnn, InputRequest(std::string(kMiB + 1, 'x'))}).status, INVALID_FIELD, INVALID_ARGUMENT);
  EXPECT_REASON(Send({json, InputRequest("x")}).status, INVALID_FIELD, INVALID_ARGUMENT);
  EXPECT_REASON(Send({onnx}).status, INVALID_FIELD, INVALID_ARGUMENT);
  EXPECT_REASON(Send({onnx, InputRequest("x")}).status, EXPORT_INPUT_INVALID, INVALID_ARGUMENT);
  EXPECT_REASON(Send({ncnn, InputRequest("x")}).status, EXPORT_INPUT_INVALID, INVALID_ARGUMENT);
  // Chunks are put together, and the end of one is no end of anything.
  const Answer answer = Send({ncnn, InputRequest("a_pa"), InputRequest("ram_0 3"), InputRequest("\n")});
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.file, "a_param_0 3\na 63.5\n");
  ExpectNothingHeld();
}

TEST_F(LargeExportRpcTest, ManyLayersTakeManyMessages) {
  const std::string prefix(500, 'x');
  std::vector<std::string> layers;
  for (int i = 0; i < 2500; ++i) layers.push_back(absl::StrCat(prefix, 10000 + i));
  Push("s", layers, {1, 2});
  const Answer answer = Export(OptionsOf(v1::EXPORT_FORMAT_CSV));
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(std::vector<std::string>(answer.summary.layer().begin(), answer.summary.layer().end()), layers);
  EXPECT_EQ(answer.summary_messages, 2u);
  EXPECT_GT(answer.file.size(), 2 * kMiB);
  EXPECT_EQ(answer.largest_chunk, kMiB);
  EXPECT_EQ(answer.summary.bytes(), answer.file.size());
  ExpectNothingHeld();
}

TEST_F(LargeExportRpcTest, AFileGivenUpLeavesNothing) {
  const std::string prefix(500, 'x');
  std::vector<std::string> layers;
  for (int i = 0; i < 2500; ++i) layers.push_back(absl::StrCat(prefix, i));
  Push("s", layers, {1, 2});
  const std::unique_ptr<grpc::ClientContext> context = TestContext();
  const auto stream = stub_->Export(context.get());
  ASSERT_TRUE(stream->Write(OptionsRequest(OptionsOf(v1::EXPORT_FORMAT_JSON))));
  stream->WritesDone();
  v1::ExportResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_GT(server_.engine().counters().export_file_bytes, 0);
  context->TryCancel();
  while (stream->Read(&response)) {
  }
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  ExpectNothingHeld();
}

TEST_F(LargeExportRpcTest, ADrainEndsExportsThatWaitForTheirClient) {
  const std::string prefix(500, 'x');
  std::vector<std::string> layers;
  for (int i = 0; i < 2500; ++i) layers.push_back(absl::StrCat(prefix, i));
  Push("s", layers, {1, 2});
  const std::unique_ptr<grpc::ClientContext> idle_context = TestContext(), begun_context = TestContext(),
                                             unread_context = TestContext();
  const auto idle = stub_->Export(idle_context.get());
  const auto begun = stub_->Export(begun_context.get());
  begun->Write(OptionsRequest(OptionsOf(v1::EXPORT_FORMAT_NCNN)));
  begun->Write(InputRequest("a_param_0 1"));
  const auto unread = stub_->Export(unread_context.get());
  unread->Write(OptionsRequest(OptionsOf(v1::EXPORT_FORMAT_JSON)));
  unread->WritesDone();
  v1::ExportResponse response;
  ASSERT_TRUE(unread->Read(&response));
  ASSERT_TRUE(Eventually([this] { return server_.engine().counters().streams == 3; }));
  const absl::Time start = absl::Now();
  EXPECT_TRUE(server_.Stop(absl::Minutes(1)).ok());
  EXPECT_LT(absl::Now() - start, absl::Seconds(30)) << "waited for its deadline";
  EXPECT_REASON(idle->Finish(), SERVER_DRAINING, UNAVAILABLE);
  EXPECT_REASON(begun->Finish(), SERVER_DRAINING, UNAVAILABLE);
  while (unread->Read(&response)) {
  }
  EXPECT_REASON(unread->Finish(), SERVER_DRAINING, UNAVAILABLE);
  EXPECT_EQ(server_.engine().counters().export_file_bytes, 0);
}

TEST_F(ExportRpcTest, ADrainRefusesNewOnes) {
  Push("s", {"a"}, {1});
  server_.engine().BeginDrain();
  EXPECT_REASON(Refusal(OptionsOf(v1::EXPORT_FORMAT_JSON)), SERVER_DRAINING, UNAVAILABLE);
}

}  // namespace
}  // namespace calib::server
