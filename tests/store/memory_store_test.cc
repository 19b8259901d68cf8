#include "server/store/memory_store.h"

#include <memory>
#include <string>
#include <utility>

#include "gtest/gtest.h"
#include "tests/store/store_contract.h"

namespace calib::server::test {
namespace {

// Memory that outlives the stores opened on it.
class MemoryPlace : public StorePlace {
 public:
  std::unique_ptr<Store> NewStore() override { return std::make_unique<View>(&memory_); }
  bool takes_over() const override { return true; }

 private:
  class View : public Store {
   public:
    explicit View(MemoryStore* memory) : memory_(memory) {}
    absl::StatusOr<uint64_t> Open() override { return memory_->Open(); }
    absl::StatusOr<std::vector<SessionCheckpoint>> Load() override { return memory_->Load(); }
    absl::Status Commit(uint64_t epoch, std::vector<SessionCheckpoint> checkpoints) override {
      return memory_->Commit(epoch, std::move(checkpoints));
    }
    absl::Status Delete(uint64_t epoch, const std::string& session) override { return memory_->Delete(epoch, session); }
    StoreUsage GetUsage() const override { return memory_->GetUsage(); }

   private:
    MemoryStore* const memory_;
  };

  MemoryStore memory_{{.retain = true}};
};

INSTANTIATE_TEST_SUITE_P(Memory, StoreContract,
                         ::testing::Values(StoreKind{"memory", [] { return std::make_unique<MemoryPlace>(); }}),
                         [](const auto& info) { return info.param.name; });

TEST(MemoryStoreTest, KeepsNothingUnlessAsked) {
  MemoryStore store;
  const uint64_t epoch = store.Open().value();
  const SessionCheckpoint checkpoint{.session = {.name = "s"}};
  EXPECT_TRUE(store.Commit(epoch, {checkpoint}).ok());
  EXPECT_EQ(store.Load()->size(), 0u);
  EXPECT_TRUE(store.Delete(epoch, "s").ok());
  EXPECT_EQ(store.Commit(epoch + 1, {checkpoint}).code(), absl::StatusCode::kAborted);
}

}  // namespace
}  // namespace calib::server::test
