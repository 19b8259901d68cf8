#include "server/store/rocksdb_store.h"

#include <memory>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/store/checkpoints.h"
#include "tests/store/store_contract.h"
#include "tests/store/temporary_store.h"

namespace calib::server::test {
namespace {

class FolderPlace : public StorePlace {
 public:
  std::unique_ptr<Store> NewStore() override { return StoreIn(folder_); }
  bool takes_over() const override { return false; }

 private:
  const TemporaryFolder folder_;
};

INSTANTIATE_TEST_SUITE_P(RocksDb, StoreContract,
                         ::testing::Values(StoreKind{"rocksdb", [] { return std::make_unique<FolderPlace>(); }}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace calib::server::test
