// Every file of a store truncated, removed or with a bit flipped: the store is refused with a clear line, or gives
// exactly what was acknowledged.
#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/store/checkpoints.h"
#include "tests/store/store_folder.h"
#include "tests/support/sample.h"

namespace calib::server::test {
namespace {

using ::testing::HasSubstr;

// A store as a crash leaves it, and what was acknowledged.
struct Image {
  std::map<std::string, std::string> files;
  std::string contents;
};

Image ImageOf(const StoreFolder& folder, const std::map<std::string, SessionCheckpoint>& sessions) {
  Image image;
  for (const std::string& file : folder.Files()) {
    if (!absl::StartsWith(file, "LOG")) image.files[file] = folder.Read(file);
  }
  for (const auto& [name, session] : sessions) absl::StrAppend(&image.contents, Describe(session));
  return image;
}

// `restarts`: after each the log's data is in tables.
Image MakeImage(int restarts) {
  const StoreFolder folder;
  Rng rng(61);
  std::map<std::string, SessionCheckpoint> sessions;
  for (int run = 0; run <= restarts; ++run) {
    const auto store = StoreIn(folder);
    const uint64_t epoch = store->Open().value();
    for (int i = 0; i < 3; ++i) {
      std::vector<SessionCheckpoint> changes;
      for (const char* const name : {"a", "b", "c"}) {
        const auto found = sessions.find(name);
        changes.push_back(found != sessions.end() ? RandomChange(rng, &found->second)
                                                  : sessions.emplace(name, RandomCheckpoint(rng, name)).first->second);
      }
      EXPECT_TRUE(store->Commit(epoch, changes).ok());
    }
    EXPECT_TRUE(store->Delete(epoch, "b").ok());
    sessions.erase("b");
  }
  return ImageOf(folder, sessions);
}

class DamageTest : public ::testing::Test {
 protected:
  // Opens a store of these files. Counts what became of it.
  void Check(const Image& image, const std::map<std::string, std::string>& files, const std::string& what) {
    for (const std::string& file : folder_.Files()) folder_.Remove(file);
    for (const auto& [name, bytes] : files) folder_.Write(name, bytes);
    const auto store = StoreIn(folder_);
    absl::Status status = store->Open().status();
    if (status.ok()) {
      const absl::StatusOr<std::vector<SessionCheckpoint>> sessions = store->Load();
      status = sessions.status();
      if (sessions.ok()) {
        ++exact_;
        EXPECT_EQ(Describe(*sessions) == image.contents, true) << what << " gives something else";
        return;
      }
    }
    ++refused_;
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << what << ": " << status;
    EXPECT_EQ(absl::StrContains(status.message(), "\n"), false) << what << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("put a backup of the whole folder in its place")) << what;
  }

  void CheckDamaged(const Image& image, const std::string& file, const std::string& bytes, const std::string& what) {
    std::map<std::string, std::string> files = image.files;
    files[file] = bytes;
    Check(image, files, absl::StrCat(file, " ", what));
  }

  void CheckAll(const Image& image) {
    Check(image, image.files, "nothing damaged");
    ASSERT_EQ(exact_, 1);
    for (const auto& [file, bytes] : image.files) {
      std::map<std::string, std::string> without = image.files;
      without.erase(file);
      Check(image, without, file + " removed");
      for (const size_t length : Lengths(bytes.size())) {
        CheckDamaged(image, file, bytes.substr(0, length), absl::StrCat("cut to ", length));
      }
      for (const size_t at : Positions(bytes.size())) {
        if (!sample_.Take()) continue;
        std::string flipped = bytes;
        flipped[at] = static_cast<char>(flipped[at] ^ 1 << rng_() % 8);
        CheckDamaged(image, file, flipped, absl::StrCat("flipped at ", at));
      }
    }
    EXPECT_GT(refused_, 50);
    EXPECT_GT(exact_, 10);
  }

  int exact_ = 0;
  int refused_ = 0;

 private:
  std::set<size_t> Lengths(size_t size) {
    std::set<size_t> lengths = {0, size / 2, size - std::min<size_t>(size, 1), size - std::min<size_t>(size, 9)};
    for (int i = 0; i < 6 && size > 0; ++i) lengths.insert(rng_() % size);
    lengths.erase(size);
    return lengths;
  }

  // All of a small file, the ends and a sample of a large one.
  std::set<size_t> Positions(size_t size) {
    constexpr size_t kAll = 64, kEnd = 20, kSample = 40;
    std::set<size_t> positions;
    for (size_t i = 0; i < std::min(size, kAll); ++i) positions.insert(size <= kAll ? i : i % kEnd);
    if (size <= kAll) return positions;
    for (size_t i = 0; i < kEnd; ++i) positions.insert(size - 1 - i);
    for (size_t i = 0; i < kSample; ++i) positions.insert(rng_() % size);
    return positions;
  }

  const StoreFolder folder_;
  Rng rng_{62};
  calib::test::Sample sample_{5};
};

TEST_F(DamageTest, OfAStoreWhoseDataIsInTheLog) { CheckAll(MakeImage(0)); }

TEST_F(DamageTest, OfAStoreWhoseDataIsInTables) { CheckAll(MakeImage(6)); }

// All files of an earlier moment but one: what a broken backup, or a disk that forgot, leaves.
TEST_F(DamageTest, FilesOfTwoMomentsAreNoStore) {
  const StoreFolder folder;
  Rng rng(63);
  std::map<std::string, SessionCheckpoint> sessions;
  std::vector<Image> images;
  for (int run = 0; run < 4; ++run) {
    {
      const auto store = StoreIn(folder);
      const uint64_t epoch = store->Open().value();
      SessionCheckpoint& all = sessions["a"];
      const SessionCheckpoint change = run == 0 ? all = RandomCheckpoint(rng, "a") : RandomChange(rng, &all);
      ASSERT_TRUE(store->Commit(epoch, {change}).ok());
    }
    images.push_back(ImageOf(folder, sessions));
  }
  for (size_t old = 0; old + 1 < images.size(); ++old) {
    for (const auto& [file, bytes] : images[old].files) {
      CheckDamaged(images.back(), file, bytes, absl::StrCat("of moment ", old));
    }
    std::map<std::string, std::string> back = images[old].files;
    Check(images[old], back, "all files of an earlier moment");
    back["COMMITTED"] = images.back().files.at("COMMITTED");
    Check(images[old], back, "all files of an earlier moment, but the mark");
  }
  EXPECT_GT(refused_, 3);
}

}  // namespace
}  // namespace calib::server::test
