// ExportState and ImportState: every outcome, and what becomes of calls that end early.

#include <gmock/gmock.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "proto/codec/state_file.h"
#include "server/store/memory_store.h"
#include "tests/rpc/rpc_fixture.h"

namespace calib::server {
namespace {

using Stub = v1::Calibration::Stub;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A store that takes nothing while it is told so.
class StubbornStore : public MemoryStore {
 public:
  absl::Status Commit(uint64_t epoch, std::vector<SessionCheckpoint> checkpoints) override {
    if (failing) return absl::InternalError("the disk is full");
    return MemoryStore::Commit(epoch, std::move(checkpoints));
  }
  std::atomic<bool> failing{false};
};

class StateRpcTest : public RpcTest {
 protected:
  StateRpcTest() : StateRpcTest(std::make_shared<StubbornStore>()) {}
  explicit StateRpcTest(std::shared_ptr<StubbornStore> store) : RpcTest(Options(store)), store_(std::move(store)) {}
  static test::InProcessServerOptions Options(std::shared_ptr<Store> store) {
    test::InProcessServerOptions options;
    options.store = std::move(store);
    options.engine.limits.max_streams = 4;
    return options;
  }

  grpc::Status Export(const std::string& session, std::string* file, size_t* largest = nullptr) {
    v1::ExportStateRequest request;
    request.set_session(session);
    const std::unique_ptr<grpc::ClientContext> context = TestContext();
    const auto reader = stub_->ExportState(context.get(), request);
    v1::ExportStateResponse chunk;
    file->clear();
    while (reader->Read(&chunk)) {
      file->append(chunk.data());
      if (largest != nullptr) *largest = std::max(*largest, chunk.data().size());
    }
    return reader->Finish();
  }
  std::string Exported(const std::string& session) {
    std::string file;
    const grpc::Status status = Export(session, &file);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return file;
  }

  static v1::ImportStateRequest OpenRequest(const std::string& session, bool skip_unmergeable = false) {
    v1::ImportStateRequest request;
    request.mutable_open()->set_session(session);
    request.mutable_open()->set_skip_unmergeable(skip_unmergeable);
    return request;
  }
  static v1::ImportStateRequest DataRequest(std::string data) {
    v1::ImportStateRequest request;
    request.set_data(std::move(data));
    return request;
  }
  grpc::Status Send(const std::vector<v1::ImportStateRequest>& requests, v1::ImportStateResponse* response = nullptr) {
    v1::ImportStateResponse ignored;
    const std::unique_ptr<grpc::ClientContext> context = TestContext();
    const auto writer = stub_->ImportState(context.get(), response == nullptr ? &ignored : response);
    for (const v1::ImportStateRequest& request : requests) {
      if (!writer->Write(request)) break;
    }
    writer->WritesDone();
    return writer->Finish();
  }
  grpc::Status Import(const std::string& session, const std::string& file, v1::ImportStateResponse* response = nullptr,
                      bool skip_unmergeable = false) {
    std::vector<v1::ImportStateRequest> requests = {OpenRequest(session, skip_unmergeable)};
    for (size_t at = 0; at < file.size(); at += kMaxStateChunkBytes) {
      requests.push_back(DataRequest(file.substr(at, kMaxStateChunkBytes)));
    }
    return Send(requests, response);
  }
  v1::Session SessionOf(const std::string& name) {
    v1::GetSessionRequest request;
    request.set_session(name);
    v1::GetSessionResponse response;
    EXPECT_TRUE(Call(stub_.get(), &Stub::GetSession, request, &response).ok());
    return response.session();
  }
  // A layer of many channels, a few MiB of histograms.
  void PushWide(const std::string& session) {
    ObserveClient client(stub_.get());
    client.Open(session, "wide");
    client.Write(RegisterMessage(0, {"channels/wide"}));
    for (uint64_t unit = 1; unit <= 16; ++unit) {
      v1::ObserveRequest request;
      request.mutable_update()->set_first(unit);
      request.mutable_update()->set_last(unit);
      v1::TensorChunk* const chunk = request.mutable_update()->mutable_tensor();
      chunk->set_data_type(v1::DATA_TYPE_FLOAT32);
      constexpr uint64_t kChannels = 128, kColumns = 2048;
      chunk->add_shape(kChannels);
      chunk->add_shape(kColumns);
      std::vector<float> values(kChannels * kColumns);
      for (size_t i = 0; i < values.size(); ++i) {
        // All exponents and mantissas in the end: full pages.
        const size_t j = i + unit * 2053;
        values[i] = std::ldexp(1.0f + static_cast<float>(j % 127) / 128, static_cast<int>(j * 7 % 250) - 125);
      }
      chunk->set_data(values.data(), values.size() * sizeof(float));
      client.Write(request);
    }
    client.WritesDone();
    ASSERT_TRUE(client.Finish().ok());
  }

  const std::shared_ptr<StubbornStore> store_;
};

TEST_F(StateRpcTest, AFileMergesOnceAndTheSessionTells) {
  CreateSession("c");
  Push("s", {"a", "range/b"}, {1, 2, 3});
  const std::string file = Exported("s");
  v1::ImportStateResponse response;
  ASSERT_TRUE(Import("c", file, &response).ok());
  EXPECT_FALSE(response.already_merged());
  EXPECT_EQ(response.layers(), 2u);
  EXPECT_EQ(response.values(), 6u);
  EXPECT_EQ(response.layers_left_out(), 0u);
  EXPECT_EQ(response.session().name(), "c");
  ASSERT_EQ(response.session().imported_size(), 1);
  EXPECT_EQ(response.session().imported(0).digest().size(), 32u);
  EXPECT_EQ(response.session().imported(0).sessions(), 1u);
  const v1::Session session = SessionOf("c");
  EXPECT_EQ(session.imported_size(), 1);
  EXPECT_EQ(session.uid().size(), 32u);
  EXPECT_NE(session.uid(), SessionOf("s").uid());
  EXPECT_GE(session.update_time().seconds(), session.create_time().seconds());
  EXPECT_EQ(session.values(), 6u);

  response.Clear();
  ASSERT_TRUE(Import("c", file, &response).ok());
  EXPECT_TRUE(response.already_merged());
  EXPECT_EQ(response.layers(), 0u);
  EXPECT_EQ(SessionOf("c").values(), 6u);
  EXPECT_REASON(Import("s", file), STATE_OVERLAPS, ALREADY_EXISTS);
}

TEST_F(StateRpcTest, AHugeLayerGoesInManyChunks) {
  CreateSession("c");
  PushWide("s");
  std::string file;
  size_t largest = 0;
  const grpc::Status status = Export("s", &file, &largest);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_GT(file.size(), 2 * kMaxStateChunkBytes);
  EXPECT_EQ(largest, kMaxStateChunkBytes);
  const grpc::Status imported = Import("c", file);
  ASSERT_TRUE(imported.ok()) << imported.error_message();
  EXPECT_EQ((*server_.engine().FindSession("c"))->GetLayer("channels/wide")->statistics,
            (*server_.engine().FindSession("s"))->GetLayer("channels/wide")->statistics);
  EXPECT_TRUE(Eventually([this] { return server_.engine().counters().streams == 0; }));
  EXPECT_EQ(server_.engine().counters().export_bytes, 0);
}

TEST_F(StateRpcTest, Refusals) {
  Push("s", {"a", "ema/b"}, {1, 2});
  const std::string file = Exported("s");
  std::string ignored;
  EXPECT_REASON(Export("nowhere", &ignored), SESSION_NOT_FOUND, NOT_FOUND);
  EXPECT_REASON(Import("nowhere", file), SESSION_NOT_FOUND, NOT_FOUND);
  EXPECT_REASON(Send({}), INVALID_FIELD, INVALID_ARGUMENT);
  EXPECT_REASON(Send({DataRequest(file)}), INVALID_FIELD, INVALID_ARGUMENT);
  CreateSession("c");
  EXPECT_REASON(Send({OpenRequest("c"), OpenRequest("c")}), INVALID_FIELD, INVALID_ARGUMENT);
  EXPECT_REASON(Send({OpenRequest("c"), DataRequest(std::string(kMaxStateChunkBytes + 1, 'x'))}), INVALID_FIELD,
                INVALID_ARGUMENT);
  EXPECT_REASON(Send({OpenRequest("c")}), STATE_FILE_INVALID, INVALID_ARGUMENT);
  EXPECT_REASON(Import("c", file.substr(0, file.size() - 1)), STATE_FILE_INVALID, INVALID_ARGUMENT);
  EXPECT_REASON(Import("c", file + "x"), STATE_FILE_INVALID, INVALID_ARGUMENT);
  EXPECT_THAT(Import("c", file + "x").error_message(), HasSubstr(absl::StrCat("byte ", file.size(), ": ")));

  Push("c", {"ema/b"}, {1});
  EXPECT_REASON(Import("c", file), STATE_UNMERGEABLE, FAILED_PRECONDITION);
  EXPECT_EQ(SessionOf("c").values(), 1u);
  v1::ImportStateResponse response;
  ASSERT_TRUE(Import("c", file, &response, /*skip_unmergeable=*/true).ok());
  EXPECT_EQ(response.layers(), 1u);
  EXPECT_EQ(response.layers_left_out(), 1u);
  EXPECT_THAT(response.left_out(), ElementsAre("ema/b"));

  v1::CreateSessionRequest create;
  create.set_session("other");
  v1::LayerRule* const rule = create.mutable_config()->add_rules();
  rule->set_pattern("*");
  rule->mutable_observer()->set_kind(v1::OBSERVER_KIND_MINMAX);
  v1::CreateSessionResponse created;
  ASSERT_TRUE(Call(stub_.get(), &Stub::CreateSession, create, &created).ok());
  EXPECT_REASON(Import("other", file), OBSERVER_MISMATCH, INVALID_ARGUMENT);

  CreateSession("sealed");
  v1::SealSessionRequest seal;
  seal.set_session("sealed");
  v1::SealSessionResponse sealed;
  ASSERT_TRUE(Call(stub_.get(), &Stub::SealSession, seal, &sealed).ok());
  EXPECT_REASON(Import("sealed", file), SESSION_SEALED, FAILED_PRECONDITION);
}

TEST_F(StateRpcTest, WhatIsNotDurableIsNotAnsweredAndNotMergedTwice) {
  CreateSession("c");
  Push("s", {"a"}, {1, 2});
  const std::string file = Exported("s");
  store_->failing = true;
  EXPECT_REASON(Import("c", file), STORE_FAILED, UNAVAILABLE);
  store_->failing = false;
  v1::ImportStateResponse response;
  ASSERT_TRUE(Import("c", file, &response).ok());
  EXPECT_TRUE(response.already_merged());
  EXPECT_EQ(SessionOf("c").values(), 2u);
}

TEST_F(StateRpcTest, StreamsOfStateFilesAreCounted) {
  Push("s", {"a"}, {1});
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientWriter<v1::ImportStateRequest>>> writers;
  std::vector<v1::ImportStateResponse> responses(4);
  for (v1::ImportStateResponse& response : responses) {
    contexts.push_back(TestContext());
    writers.push_back(stub_->ImportState(contexts.back().get(), &response));
  }
  ASSERT_TRUE(Eventually([this] { return server_.engine().counters().streams == 4; }));
  std::string ignored;
  EXPECT_REASON(Export("s", &ignored), LIMIT_EXCEEDED, RESOURCE_EXHAUSTED);
  EXPECT_REASON(Import("s", ""), LIMIT_EXCEEDED, RESOURCE_EXHAUSTED);
  for (const auto& context : contexts) context->TryCancel();
  for (const auto& writer : writers) (void)writer->Finish();
  EXPECT_TRUE(Eventually([this] { return server_.engine().counters().streams == 0; }));
  EXPECT_TRUE(Export("s", &ignored).ok());
}

TEST_F(StateRpcTest, AnImportGivenUpLeavesNothing) {
  CreateSession("c");
  PushWide("s");
  const std::string file = Exported("s");
  const int64_t before = server_.engine().counters().state_bytes;
  const std::unique_ptr<grpc::ClientContext> context = TestContext();
  v1::ImportStateResponse response;
  const auto writer = stub_->ImportState(context.get(), &response);
  writer->Write(OpenRequest("c"));
  writer->Write(DataRequest(file.substr(0, kMaxStateChunkBytes)));
  writer->Write(DataRequest(file.substr(kMaxStateChunkBytes, kMaxStateChunkBytes)));
  ASSERT_TRUE(Eventually([&] { return server_.engine().counters().state_bytes > before + 100000; }));
  context->TryCancel();
  EXPECT_EQ(writer->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(Eventually([&] { return server_.engine().counters().state_bytes == before; }));
  EXPECT_TRUE(Eventually([&] { return server_.engine().counters().streams == 0; }));
  EXPECT_EQ(SessionOf("c").values(), 0u);
}

TEST_F(StateRpcTest, AnExportGivenUpLeavesNothing) {
  PushWide("s");
  const std::unique_ptr<grpc::ClientContext> context = TestContext();
  v1::ExportStateRequest request;
  request.set_session("s");
  const auto reader = stub_->ExportState(context.get(), request);
  v1::ExportStateResponse chunk;
  ASSERT_TRUE(reader->Read(&chunk));
  context->TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(Eventually([&] { return server_.engine().counters().streams == 0; }));
  EXPECT_TRUE(Eventually([&] { return server_.engine().counters().export_bytes == 0; }));
}

TEST_F(StateRpcTest, ADrainEndsImportsThatWaitForTheirClient) {
  CreateSession("c");
  v1::ImportStateResponse idle_response, begun_response;
  const std::unique_ptr<grpc::ClientContext> idle_context = TestContext(), begun_context = TestContext();
  const auto idle = stub_->ImportState(idle_context.get(), &idle_response);
  const auto begun = stub_->ImportState(begun_context.get(), &begun_response);
  begun->Write(OpenRequest("c"));
  begun->Write(
      DataRequest("\x89"
                  "calibd"));
  ASSERT_TRUE(Eventually([this] { return server_.engine().counters().streams == 2; }));
  const absl::Time start = absl::Now();
  EXPECT_TRUE(server_.Stop(absl::Minutes(1)).ok());
  EXPECT_LT(absl::Now() - start, absl::Seconds(30)) << "waited for its deadline";
  EXPECT_REASON(idle->Finish(), SERVER_DRAINING, UNAVAILABLE);
  EXPECT_REASON(begun->Finish(), SERVER_DRAINING, UNAVAILABLE);
}

TEST_F(StateRpcTest, ADrainRefusesNewOnes) {
  Push("s", {"a"}, {1});
  server_.engine().BeginDrain();
  std::string ignored;
  EXPECT_REASON(Export("s", &ignored), SERVER_DRAINING, UNAVAILABLE);
  EXPECT_REASON(Import("s", ""), SERVER_DRAINING, UNAVAILABLE);
}

}  // namespace
}  // namespace calib::server
