#include "server/store/rocksdb_store.h"

#include "server/store/memory_store.h"

namespace calib::server {

std::unique_ptr<Store> NewRocksDbStore(const RocksDbOptions&) { return std::make_unique<MemoryStore>(); }

}  // namespace calib::server
