#include "server/store/rocksdb_open.h"

#include <cstdarg>
#include <memory>
#include <vector>

#include "absl/strings/match.h"
#include "rocksdb/env.h"
#include "rocksdb/options.h"
#include "server/store/rocksdb_status.h"

namespace calib::server {
namespace {

// Keeps no log. RocksDB's own, a file in the folder, ends the process when it is written twice on a full disk: Debian
// builds it with assertions, and one in the file's writer fails.
class NoInfoLog : public rocksdb::Logger {
 public:
  using rocksdb::Logger::Logv;
  void Logv(const char* /*format*/, va_list /*arguments*/) override {}
};

rocksdb::Options MakeOptions(rocksdb::Env* env, bool create) {
  rocksdb::Options options;
  options.env = env;
  options.create_if_missing = create;
  options.paranoid_checks = true;
  // The default, kPointInTimeRecovery, stops at the first damaged record of the log and says nothing. A torn end, which
  // a crash leaves, is taken; whether it was acknowledged the commit mark tells.
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  // Rows are packed already: LZ4 and ZSTD made a store of real histograms no smaller, and commits slower.
  options.compression = rocksdb::kNoCompression;
  // Bounded memory and threads.
  options.write_buffer_size = size_t{16} << 20;
  options.max_background_jobs = 2;
  options.stats_dump_period_sec = 0;
  options.stats_persist_period_sec = 0;
  options.skip_stats_update_on_db_open = true;
  options.db_host_id = "calibd";  // in each table; the default is this machine's name
  options.info_log = std::make_shared<NoInfoLog>();
  return options;
}

}  // namespace

absl::StatusOr<std::unique_ptr<rocksdb::DB>> OpenRocksDb(rocksdb::Env* env, const std::string& path, bool create) {
  rocksdb::DB* db = nullptr;
  const rocksdb::Status status = rocksdb::DB::Open(MakeOptions(env, create), path, &db);
  if (!status.ok()) return FromRocksDb(status, "cannot open the store at", path);
  return std::unique_ptr<rocksdb::DB>(db);
}

absl::StatusOr<bool> HasRocksDbFiles(rocksdb::Env* env, const std::string& path) {
  std::vector<std::string> names;
  if (const rocksdb::Status status = env->GetChildren(path, &names); !status.ok()) {
    return FromRocksDb(status, "cannot read the folder", path);
  }
  for (const std::string& name : names) {
    if (name == "CURRENT" || absl::StartsWith(name, "MANIFEST-") || absl::EndsWith(name, ".sst") ||
        absl::EndsWith(name, ".log")) {
      return true;
    }
  }
  return false;
}

rocksdb::ReadOptions VerifiedRead() {
  rocksdb::ReadOptions options;
  options.verify_checksums = true;
  return options;
}

rocksdb::WriteOptions SyncedWrite() {
  rocksdb::WriteOptions options;
  options.sync = true;
  return options;
}

}  // namespace calib::server
