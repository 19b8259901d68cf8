#include "tests/support/in_process_server.h"

#include <cstdio>
#include <cstdlib>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "server/store/memory_store.h"

namespace calib::test {
namespace {

// An engine owns its store; this lends it one that outlives it.
class SharedStore : public server::Store {
 public:
  explicit SharedStore(std::shared_ptr<server::Store> store) : store_(std::move(store)) {}
  absl::StatusOr<uint64_t> Open() override { return store_->Open(); }
  absl::StatusOr<std::vector<server::SessionCheckpoint>> Load() override { return store_->Load(); }
  absl::Status Commit(uint64_t epoch, std::vector<server::SessionCheckpoint> checkpoints) override {
    return store_->Commit(epoch, std::move(checkpoints));
  }
  absl::Status Delete(uint64_t epoch, const std::string& session) override { return store_->Delete(epoch, session); }
  server::StoreUsage GetUsage() const override { return store_->GetUsage(); }

 private:
  const std::shared_ptr<server::Store> store_;
};

template <typename T>
T ValueOrDie(absl::StatusOr<T> value) {
  if (value.ok()) return *std::move(value);
  std::fprintf(stderr, "no server for the test: %s\n", std::string(value.status().message()).c_str());
  std::abort();
}

}  // namespace

InProcessServer::InProcessServer(const InProcessServerOptions& options) {
  std::shared_ptr<server::Store> store = options.store;
  if (store == nullptr) store = std::make_shared<server::MemoryStore>();
  engine_ = ValueOrDie(server::Engine::Create(options.engine, std::make_unique<SharedStore>(std::move(store))));
  grpc_ = ValueOrDie(server::GrpcServer::Start(options.grpc, engine_.get()));
}

InProcessServer::~InProcessServer() = default;

absl::Status InProcessServer::Stop(absl::Duration timeout) { return grpc_->Stop(absl::Now() + timeout); }

}  // namespace calib::test
