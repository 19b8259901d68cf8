#ifndef CALIB_TESTS_CLIENT_CLIENT_FIXTURE_H_
#define CALIB_TESTS_CLIENT_CLIENT_FIXTURE_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "client/cpp/client.h"
#include "client/cpp/worker.h"
#include "server/store/memory_store.h"
#include "tests/support/in_process_server.h"
#include "tests/support/tcp_proxy.h"

namespace calib::client {

// A float32 tensor that owns its values.
struct Tensor {
  std::vector<uint64_t> shape;
  std::vector<float> values;

  TensorView view() const {
    TensorView view;
    view.shape = shape;
    view.data = absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(float));
    return view;
  }
};

inline Tensor Vector(std::vector<float> values) { return {{values.size()}, std::move(values)}; }

// A memory store that outlives its servers. While it is closed nothing becomes durable, as if the server had crashed.
class ClosableStore : public server::Store {
 public:
  absl::StatusOr<uint64_t> Open() override { return memory_.Open(); }
  absl::StatusOr<std::vector<server::SessionCheckpoint>> Load() override { return memory_.Load(); }
  absl::Status Commit(uint64_t epoch, std::vector<server::SessionCheckpoint> checkpoints) override {
    if (closed_) return absl::InternalError("closed");
    return memory_.Commit(epoch, std::move(checkpoints));
  }
  absl::Status Delete(uint64_t epoch, const std::string& session) override { return memory_.Delete(epoch, session); }
  server::StoreUsage GetUsage() const override { return memory_.GetUsage(); }
  void SetClosed(bool closed) { closed_ = closed; }

 private:
  server::MemoryStore memory_{{.retain = true}};
  std::atomic<bool> closed_{false};
};

// A server that can restart, and a proxy before it that can cut. Clients go through the proxy.
class ClientFixture : public ::testing::Test {
 protected:
  static constexpr absl::Duration kLong = absl::Seconds(60);

  ClientFixture() {
    server_options_.store = store_;
    StartServer();
    proxy_ = std::make_unique<test::TcpProxy>(port());
    client_ = std::make_shared<Client>(OptionsFor(proxy_->address()));
  }

  int port() const { return server_->grpc().address().port; }
  void StartServer() { server_ = std::make_unique<calib::test::InProcessServer>(server_options_); }
  // Loses what is not durable, and comes back on the same port.
  void RestartServer() {
    server_options_.grpc.listen.port = port();
    store_->SetClosed(true);  // else the server would make all durable as it stops
    server_.reset();
    store_->SetClosed(false);
    StartServer();
  }

  static ClientOptions OptionsFor(std::string address) {
    ClientOptions options;
    options.server = std::move(address);
    return options;
  }
  static WorkerOptions FastWorker(std::string session) {
    WorkerOptions options;
    options.session = std::move(session);
    options.send_interval = absl::Milliseconds(1);
    options.min_backoff = absl::Milliseconds(1);
    options.max_backoff = absl::Milliseconds(20);
    return options;
  }

  void CreateSession(const std::string& name, const v1::SessionConfig& config = {}) {
    v1::CreateSessionRequest request;
    request.set_session(name);
    *request.mutable_config() = config;
    const auto response = client_->CreateSession(request);
    ASSERT_TRUE(response.ok()) << response.status();
  }
  std::unique_ptr<Worker> OpenWorker(const WorkerOptions& options) {
    auto worker = Worker::Open(client_, options, kLong);
    EXPECT_TRUE(worker.ok()) << worker.status();
    return worker.ok() ? *std::move(worker) : nullptr;
  }

  v1::GetStatisticsResponse Statistics(const std::string& session) {
    v1::GetStatisticsRequest request;
    request.set_session(session);
    const auto response = client_->GetStatistics(request);
    EXPECT_TRUE(response.ok()) << response.status();
    return response.value_or(v1::GetStatisticsResponse());
  }
  v1::GetSessionResponse Session(const std::string& session) {
    v1::GetSessionRequest request;
    request.set_session(session);
    const auto response = client_->GetSession(request);
    EXPECT_TRUE(response.ok()) << response.status();
    return response.value_or(v1::GetSessionResponse());
  }
  // Asks the server until it has applied `updates` to the session.
  void WaitUntilApplied(const std::string& session, uint64_t updates) {
    const absl::Time deadline = absl::Now() + kLong;
    while (Session(session).session().updates_applied() < updates) ASSERT_LT(absl::Now(), deadline);
  }

  const std::shared_ptr<ClosableStore> store_ = std::make_shared<ClosableStore>();
  calib::test::InProcessServerOptions server_options_;
  std::unique_ptr<calib::test::InProcessServer> server_;
  std::unique_ptr<test::TcpProxy> proxy_;
  std::shared_ptr<Client> client_;
};

}  // namespace calib::client

#endif  // CALIB_TESTS_CLIENT_CLIENT_FIXTURE_H_
