#include "server/store/commit_mark.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "rocksdb/env.h"
#include "server/store/checksum.h"
#include "server/store/rocksdb_status.h"

namespace calib::server {
namespace {

constexpr absl::string_view kMarkName = "COMMITTED";
constexpr uint64_t kSlots = 2;
// Apart, so that writing one can't tear the other.
constexpr uint64_t kSlotDistance = 4096;
constexpr size_t kSlotBytes = 16;

std::string LittleEndian(uint64_t number) {
  std::string bytes;
  for (int shift = 0; shift < 64; shift += 8) bytes.push_back(static_cast<char>(number >> shift));
  return bytes;
}

uint64_t ReadLittleEndian(absl::string_view bytes) {
  uint64_t number = 0;
  for (int i = 7; i >= 0; --i) number = number << 8 | static_cast<uint8_t>(bytes[i]);
  return number;
}

std::string EncodeSlot(uint64_t commit) {
  const std::string number = LittleEndian(commit);
  return number + LittleEndian(Checksum(kMarkName, number));
}

std::optional<uint64_t> DecodeSlot(absl::string_view slot) {
  if (slot.size() != kSlotBytes) return std::nullopt;
  const uint64_t commit = ReadLittleEndian(slot);
  if (slot != EncodeSlot(commit)) return std::nullopt;
  return commit;
}

}  // namespace

std::string CommitMark::FileName(const std::string& store_path) { return absl::StrCat(store_path, "/", kMarkName); }

absl::Status CommitMark::Create(rocksdb::Env* env, const std::string& store_path) {
  const std::string path = FileName(store_path);
  std::string content = EncodeSlot(0);
  content.resize(kSlotDistance);
  content += EncodeSlot(0);
  // Under another name first: a file with half of this would be a damaged one.
  const std::string unfinished = path + ".new";
  rocksdb::Status status = rocksdb::WriteStringToFile(env, content, unfinished, /*should_sync=*/true);
  if (status.ok()) status = env->RenameFile(unfinished, path);
  std::unique_ptr<rocksdb::Directory> directory;
  if (status.ok()) status = env->NewDirectory(store_path, &directory);
  if (status.ok()) status = directory->Fsync();
  return FromRocksDb(status, "cannot make", path);
}

absl::StatusOr<CommitMark> CommitMark::Open(rocksdb::Env* env, const std::string& store_path) {
  const std::string path = FileName(store_path);
  std::unique_ptr<rocksdb::RandomRWFile> file;
  rocksdb::Status status = env->NewRandomRWFile(path, &file, rocksdb::EnvOptions());
  if (!status.ok()) return FromRocksDb(status, "cannot open", path);
  CommitMark mark(path, std::move(file));
  std::array<std::optional<uint64_t>, kSlots> slots;
  for (uint64_t i = 0; i < kSlots; ++i) {
    std::array<char, kSlotBytes> bytes{};
    rocksdb::Slice read;
    status = mark.file_->Read(i * kSlotDistance, kSlotBytes, &read, bytes.data());
    if (!status.ok()) return FromRocksDb(status, "cannot read", path);
    slots[i] = DecodeSlot(absl::string_view(read.data(), read.size()));
  }
  if (!slots[0].has_value() && !slots[1].has_value()) {
    return absl::DataLossError(absl::StrCat("the store's file ", path, " is damaged: it names no commit; ", kRestore));
  }
  // Numbers are written in turn. One that can't be read may have been the one after the other, and acknowledged.
  mark.damaged_ = !slots[0].has_value() || !slots[1].has_value();
  mark.commit_ =
      mark.damaged_ ? slots[0].value_or(slots[1].value_or(0)) + 1 : std::max(slots[0].value(), slots[1].value());
  return mark;
}

CommitMark::CommitMark(std::string path, std::unique_ptr<rocksdb::RandomRWFile> file)
    : path_(std::move(path)), file_(std::move(file)) {}
CommitMark::CommitMark(CommitMark&&) = default;
CommitMark& CommitMark::operator=(CommitMark&&) = default;
CommitMark::~CommitMark() = default;

absl::Status CommitMark::Renew(uint64_t commit) {
  if (commit == commit_ && !damaged_) return absl::OkStatus();
  // In this order there is a place that can be read, and is not too small, at every moment.
  if (absl::Status status = Write(commit); !status.ok()) return status;
  if (absl::Status status = Write(commit - 1); !status.ok()) return status;
  commit_ = commit;
  damaged_ = false;
  return absl::OkStatus();
}

absl::Status CommitMark::Write(uint64_t commit) {
  rocksdb::Status status = file_->Write(commit % kSlots * kSlotDistance, EncodeSlot(commit));
  if (status.ok()) status = file_->Sync();
  if (!status.ok()) return FromRocksDb(status, "cannot write", path_);
  commit_ = commit;
  return absl::OkStatus();
}

}  // namespace calib::server
