#include "tests/store/failing_disk.h"

#include <string>
#include <utility>

#include "rocksdb/file_system.h"
#include "server/base/mutex.h"

namespace calib::server::test {

using rocksdb::DataVerificationInfo;
using rocksdb::FileOptions;
using rocksdb::FSRandomRWFile;
using rocksdb::FSWritableFile;
using rocksdb::IODebugContext;
using rocksdb::IOOptions;
using rocksdb::IOStatus;
using rocksdb::Slice;

class FailingFiles : public rocksdb::FileSystemWrapper {
 public:
  FailingFiles() : FileSystemWrapper(rocksdb::FileSystem::Default()) {}

  const char* Name() const override { return "FailingFiles"; }
  IOStatus NewWritableFile(const std::string& name, const FileOptions& options, std::unique_ptr<FSWritableFile>* file,
                           IODebugContext* debug) override;
  IOStatus NewRandomRWFile(const std::string& name, const FileOptions& options, std::unique_ptr<FSRandomRWFile>* file,
                           IODebugContext* debug) override;

  void FailAfter(int operations, Failure failure, bool once, bool full) {
    MutexLock lock(&mutex_);
    left_ = operations;
    failure_ = failure;
    once_ = once;
    full_ = full;
    failed_ = false;
  }
  void Repair() {
    MutexLock lock(&mutex_);
    left_ = -1;
  }
  bool failed() const {
    MutexLock lock(&mutex_);
    return failed_;
  }

  // `write(bytes)` writes so many of the `size` bytes; a sync has none.
  template <typename Write>
  IOStatus Do(size_t size, Write write) {
    MutexLock lock(&mutex_);
    if (left_ < 0 || left_-- > 0) return write(size);
    left_ = once_ ? -1 : 0;
    failed_ = true;
    if (failure_ == Failure::kTorn) write(size / 2).PermitUncheckedError();
    if (failure_ == Failure::kLate) write(size).PermitUncheckedError();
    return full_ ? IOStatus::NoSpace("No space left on device") : IOStatus::IOError("the disk fails");
  }

 private:
  mutable Mutex mutex_;
  int left_ = -1;  // operations that succeed before one fails; -1: all do
  Failure failure_ = Failure::kNothing;
  bool once_ = false, full_ = false, failed_ = false;
};

namespace {

class FailingWritable : public rocksdb::FSWritableFileOwnerWrapper {
 public:
  FailingWritable(FailingFiles* files, std::unique_ptr<FSWritableFile> file)
      : FSWritableFileOwnerWrapper(std::move(file)), files_(files) {}

  IOStatus Append(const Slice& data, const IOOptions& options, IODebugContext* debug) override {
    return files_->Do(data.size(),
                      [&](size_t bytes) { return target()->Append(Slice(data.data(), bytes), options, debug); });
  }
  IOStatus Append(const Slice& data, const IOOptions& options, const DataVerificationInfo&,
                  IODebugContext* debug) override {
    return Append(data, options, debug);
  }
  IOStatus Sync(const IOOptions& options, IODebugContext* debug) override {
    return files_->Do(1, [&](size_t bytes) { return bytes == 0 ? IOStatus::OK() : target()->Sync(options, debug); });
  }
  IOStatus Fsync(const IOOptions& options, IODebugContext* debug) override {
    return files_->Do(1, [&](size_t bytes) { return bytes == 0 ? IOStatus::OK() : target()->Fsync(options, debug); });
  }

 private:
  FailingFiles* const files_;
};

class FailingRandomRW : public rocksdb::FSRandomRWFileOwnerWrapper {
 public:
  FailingRandomRW(FailingFiles* files, std::unique_ptr<FSRandomRWFile> file)
      : FSRandomRWFileOwnerWrapper(std::move(file)), files_(files) {}

  IOStatus Write(uint64_t offset, const Slice& data, const IOOptions& options, IODebugContext* debug) override {
    return files_->Do(data.size(),
                      [&](size_t bytes) { return target()->Write(offset, Slice(data.data(), bytes), options, debug); });
  }
  IOStatus Sync(const IOOptions& options, IODebugContext* debug) override {
    return files_->Do(1, [&](size_t bytes) { return bytes == 0 ? IOStatus::OK() : target()->Sync(options, debug); });
  }

 private:
  FailingFiles* const files_;
};

}  // namespace

IOStatus FailingFiles::NewWritableFile(const std::string& name, const FileOptions& options,
                                       std::unique_ptr<FSWritableFile>* file, IODebugContext* debug) {
  std::unique_ptr<FSWritableFile> made;
  IOStatus status = target()->NewWritableFile(name, options, &made, debug);
  // The info log is not worth a failure.
  if (!status.ok() || name.find("/LOG") != std::string::npos) {
    *file = std::move(made);
    return status;
  }
  *file = std::make_unique<FailingWritable>(this, std::move(made));
  return status;
}

IOStatus FailingFiles::NewRandomRWFile(const std::string& name, const FileOptions& options,
                                       std::unique_ptr<FSRandomRWFile>* file, IODebugContext* debug) {
  std::unique_ptr<FSRandomRWFile> made;
  IOStatus status = target()->NewRandomRWFile(name, options, &made, debug);
  if (status.ok()) *file = std::make_unique<FailingRandomRW>(this, std::move(made));
  return status;
}

FailingDisk::FailingDisk() : files_(std::make_shared<FailingFiles>()), env_(rocksdb::NewCompositeEnv(files_)) {}
FailingDisk::~FailingDisk() = default;

void FailingDisk::FailAfter(int operations, Failure failure, bool once, bool full) {
  files_->FailAfter(operations, failure, once, full);
}
void FailingDisk::Repair() { files_->Repair(); }
bool FailingDisk::failed() const { return files_->failed(); }

}  // namespace calib::server::test
