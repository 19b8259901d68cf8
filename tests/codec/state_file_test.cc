#include "proto/codec/state_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "proto/codec/config_codec.h"
#include "proto/codec/state_file_format.h"
#include "tests/codec/random_statistics.h"
#include "tests/support/random_states.h"

namespace calib {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

using Layers = std::map<std::string, LayerStatistics>;

v1::StateHeader Header(const SessionConfig& config) {
  v1::StateHeader header;
  header.set_session("s");
  header.set_uid("0123456789abcdef0123456789abcdef");
  header.add_lineage(header.uid());
  header.add_lineage("ffffffffffffffffffffffffffffffff");
  *header.mutable_config() = EncodeSessionConfig(config);
  header.mutable_create_time()->set_seconds(1700000000);
  header.set_updates(7);
  return header;
}

std::string Write(const SessionConfig& config, const Layers& layers) {
  std::vector<StateLayer> list;
  for (const auto& [name, statistics] : layers) {
    list.push_back({name, std::make_shared<const LayerStatistics>(statistics)});
  }
  StateFileWriter writer(Header(config), std::move(list));
  std::string bytes;
  absl::StatusOr<bool> more = true;
  while (more.ok() && *more) more = writer.Next(&bytes);
  EXPECT_TRUE(more.ok()) << more.status();
  return bytes;
}

struct ReadResult {
  absl::Status status;
  v1::StateHeader header;
  Layers layers;
  std::string digest;
  uint64_t values = 0;
  size_t most_memory = 0;
};

// In pieces of this size.
ReadResult Read(absl::string_view bytes, size_t piece) {
  ReadResult result;
  StateFileReader reader({.on_header =
                              [&](const v1::StateHeader& header, const SessionConfig&) {
                                result.header = header;
                                return absl::OkStatus();
                              },
                          .on_layer =
                              [&](std::string name, LayerStatistics statistics) {
                                result.layers.emplace(std::move(name), std::move(statistics));
                                return absl::OkStatus();
                              }});
  for (size_t at = 0; at < bytes.size() && result.status.ok(); at += piece) {
    result.status = reader.Add(bytes.substr(at, piece));
    result.most_memory = std::max(result.most_memory, reader.MemoryBytes());
  }
  if (result.status.ok()) result.status = reader.Finish();
  if (!result.status.ok()) return result;
  EXPECT_EQ(reader.file_bytes(), bytes.size());
  EXPECT_EQ(reader.layers(), result.layers.size());
  result.digest = reader.digest();
  result.values = reader.values();
  return result;
}

// One layer of each kind of observer there is, in a state that it can be in.
std::pair<SessionConfig, Layers> EveryState(uint64_t seed, int mantissa_bits) {
  test::Rng rng(seed);
  SessionConfig config{.mantissa_bits = mantissa_bits};
  std::vector<ObserverRules::Rule> rules;
  Layers layers;
  for (const ObserverConfig& observer : test::EveryObserver(mantissa_bits)) {
    const std::string name = absl::StrCat("layer.", 100 + rules.size());
    ObserverRules::Rule rule{name, observer, {}};
    if (observer.learned.has_value()) rule.quant_spec = observer.learned->spec;
    // As a session has it: written and read.
    rules.push_back(rule);
    LayerStatistics state = test::RandomState(rng, observer);
    while (state.empty()) state = test::RandomState(rng, observer);
    layers.emplace(name, std::move(state));
  }
  config.rules = ObserverRules(std::move(rules));
  config.synchronous = SynchronousOptions{.world_size = 2};  // learned observers ask for them
  return {config, layers};
}

SessionConfig SmallConfig() {
  return {.rules = ObserverRules({{"m", ObserverConfig{.kind = ObserverKind::kMinMax}, {}}})};
}

Layers SmallLayers() {
  return {{"m", test::Observe(ObserverConfig{.kind = ObserverKind::kMinMax}, {1.5f, -2.0f, 0.25f})}};
}

TEST(StateFileTest, EveryStateReadsBackFromPiecesOfAnySize) {
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    const auto [config, layers] = EveryState(seed, 4 + static_cast<int>(seed % 4));
    const std::string bytes = Write(config, layers);
    for (const size_t piece : {size_t{13}, size_t{4096}, bytes.size()}) {
      const ReadResult result = Read(bytes, piece);
      ASSERT_TRUE(result.status.ok()) << result.status;
      EXPECT_EQ(result.layers, layers) << "seed " << seed << ", pieces of " << piece;
      EXPECT_EQ(result.header.SerializeAsString(), Header(config).SerializeAsString());
    }
  }
}

TEST(StateFileTest, ASmallFileReadsBackFromPiecesOfEverySize) {
  const std::string bytes = Write(SmallConfig(), SmallLayers());
  for (size_t piece = 1; piece <= bytes.size(); ++piece) {
    const ReadResult result = Read(bytes, piece);
    ASSERT_TRUE(result.status.ok()) << result.status;
    EXPECT_EQ(result.layers, SmallLayers());
    EXPECT_EQ(result.values, 3u);
  }
}

TEST(StateFileTest, EqualStatesGiveEqualBytesWhateverTheirHistory) {
  const SessionConfig config;
  const ObserverConfig observer;
  LayerStatistics once = test::Observe(observer, {1, 2, 3, 1000});
  LayerStatistics merged = test::Observe(observer, {1000, 3});
  merged.Merge(test::Observe(observer, {2, 1}));
  EXPECT_EQ(Write(config, {{"a", once}}), Write(config, {{"a", merged}}));
}

TEST(StateFileTest, ALayerOfManyChannelsIsCutIntoRecords) {
  const ObserverConfig observer{.channel_axis = 1};
  const size_t channels = 1000;
  test::Rng rng(1);
  const LayerStatistics layer = test::Observe(observer, test::RandomTensor(rng, channels * 3000), channels);
  const std::string bytes = Write({.rules = ObserverRules({{"*", observer, {}}})}, {{"wide", layer}});
  ASSERT_GT(bytes.size(), 2 * kStateRecordBytes);
  const ReadResult result = Read(bytes, 100000);
  ASSERT_TRUE(result.status.ok()) << result.status;
  EXPECT_EQ(result.layers.at("wide"), layer);
  // Each record but the last is near to full, and none is over it by much.
  size_t records = 0;
  for (size_t at = 12; at < bytes.size(); ++records) {
    uint32_t length = 0;
    for (int i = 3; i >= 0; --i) length = length << 8 | static_cast<uint8_t>(bytes[at + static_cast<size_t>(i)]);
    EXPECT_LE(length, kStateRecordBytes + 1000);
    at += 4 + length + 8;
  }
  EXPECT_LE(records, 2 + bytes.size() / (kStateRecordBytes - (64 << 10)) + 1);
}

TEST(StateFileTest, MemoryIsThatOfOneLayer) {
  Layers layers;
  for (int i = 0; i < 300; ++i) layers.emplace(absl::StrCat("l", i), test::Observe({}, {1, 2, 3}));
  const std::string bytes = Write({}, layers);
  const ReadResult result = Read(bytes, 1000);
  ASSERT_TRUE(result.status.ok()) << result.status;
  EXPECT_LT(result.most_memory, 4000u);
}

TEST(StateFileTest, EveryTruncationIsRefused) {
  const std::string bytes = Write(SmallConfig(), SmallLayers());
  for (size_t size = 0; size < bytes.size(); ++size) {
    for (const size_t piece : {size_t{1}, bytes.size()}) {
      const ReadResult result = Read(absl::string_view(bytes).substr(0, size), piece);
      EXPECT_EQ(result.status.code(), absl::StatusCode::kInvalidArgument) << size;
      EXPECT_EQ(result.status.message(),
                absl::StrCat("byte ", size, ": the state file ends here, before its footer; it was cut short"));
    }
  }
}

TEST(StateFileTest, EveryFlippedBitIsRefused) {
  std::string bytes = Write(SmallConfig(), SmallLayers());
  for (size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    bytes[bit / 8] ^= static_cast<char>(1 << bit % 8);
    const ReadResult result = Read(bytes, bytes.size());
    EXPECT_EQ(result.status.code(), absl::StatusCode::kInvalidArgument) << "bit " << bit;
    EXPECT_THAT(std::string(result.status.message()), StartsWith("byte ")) << "bit " << bit;
    bytes[bit / 8] ^= static_cast<char>(1 << bit % 8);
  }
}

TEST(StateFileTest, WhatFollowsTheEndIsRefused) {
  const std::string bytes = Write(SmallConfig(), SmallLayers());
  for (const std::string& more : {std::string(1, '\0'), std::string("x"), bytes}) {
    EXPECT_THAT(std::string(Read(bytes + more, 7).status.message()),
                AllOf(StartsWith(absl::StrCat("byte ", bytes.size(), ": ")), HasSubstr("goes on behind its end")));
  }
}

TEST(StateFileTest, OtherFilesAndVersionsAreNamed) {
  EXPECT_THAT(std::string(Read("PK\x03\x04", 4).status.message()), StartsWith("byte 0: this is no state file"));
  EXPECT_THAT(std::string(Read("", 4).status.message()), StartsWith("byte 0: the state file ends here"));
  std::string bytes = Write(SmallConfig(), SmallLayers());
  bytes[8] = 2;
  EXPECT_THAT(std::string(Read(bytes, bytes.size()).status.message()),
              AllOf(StartsWith("byte 8: the state file has version 2"), HasSubstr("newer")));
}

// Whole files whose checksums are right and whose records are wrong.
TEST(StateFileTest, RecordsThatContradictEachOtherAreRefused) {
  const auto refused = [](const SessionConfig& config, std::vector<StateLayer> list, const std::string& message) {
    StateFileWriter writer(Header(config), std::move(list));
    std::string bytes;
    absl::StatusOr<bool> more = true;
    while (more.ok() && *more) more = writer.Next(&bytes);
    ASSERT_TRUE(more.ok()) << more.status();
    EXPECT_THAT(std::string(Read(bytes, bytes.size()).status.message()),
                AllOf(StartsWith("byte "), HasSubstr(message)));
  };
  const auto layer = [](const ObserverConfig& observer) {
    return std::make_shared<const LayerStatistics>(test::Observe(observer, {1, 2}));
  };
  refused({}, {{"b", layer({})}, {"a", layer({})}}, "layer \"a\": names do not rise");
  refused({}, {{"a", layer({})}, {"a", layer({})}}, "layer \"a\": names do not rise");
  refused(SmallConfig(), {{"a", layer({})}}, "layer \"a\" is skipped by the rules");
  refused({}, {{"a", layer({.kind = ObserverKind::kMinMax})}}, "layer \"a\": ");
}

// Forged files, whose checksums are right: refused or read, whatever they say, and what is read is a state that can be.
TEST(StateFileTest, ForgedRecordsNeverCrash) {
  test::Rng rng(7);
  int refused = 0;
  for (uint64_t round = 0; round < 400; ++round) {
    const auto [config, layers] = EveryState(1 + round % 3, 7);
    std::string bytes = Write(config, layers);
    // Any record but the footer, after whose change the digest would be wrong in any case.
    std::vector<std::pair<size_t, size_t>> records;  // where payloads begin, and their sizes
    for (size_t at = 12; at < bytes.size();) {
      const auto length =
          state_file::ReadLittleEndian<uint32_t>(absl::string_view(bytes).substr(at, state_file::kLengthBytes));
      records.emplace_back(at + state_file::kLengthBytes, length);
      at += state_file::kLengthBytes + length + state_file::kChecksumBytes;
    }
    const auto [payload, size] = records[rng() % (records.size() - 1)];
    for (uint64_t i = 0; i < 1 + rng() % 4; ++i) bytes[payload + rng() % size] = static_cast<char>(rng());
    const size_t begin = payload - state_file::kLengthBytes;
    std::string checksum;
    state_file::AppendLittleEndian(
        StateChecksum(absl::string_view(bytes).substr(begin, state_file::kLengthBytes + size)), &checksum);
    bytes.replace(payload + size, checksum.size(), checksum);
    const ReadResult result = Read(bytes, bytes.size());
    if (result.status.ok()) continue;
    ++refused;
    EXPECT_EQ(result.status.code(), absl::StatusCode::kInvalidArgument) << result.status;
    EXPECT_THAT(std::string(result.status.message()), StartsWith("byte "));
  }
  EXPECT_GT(refused, 350);
}

// The format is written down: these bytes stay readable.
TEST(StateFileTest, GoldenBytes) {
  const std::string bytes = Write(SmallConfig(), SmallLayers());
  const std::string golden =
      "8963616c6962640a010000008d0000000a8a010a01731220303132333435363738396162636465663031323334353637"
      "38396162636465661a2030313233343536373839616263646566303132333435363738396162636465661a2066666666"
      "6666666666666666666666666666666666666666666666666666666622150a110a016d12020802220808081001200128"
      "0110072a060880e2cfaa063007dcf61d52166f59e31b00000012190a016d10011a120a01001a01032204000000c02a04"
      "0000c03f3a2417722c5f251c180000001a16080110031a10a30ee3400939341de88d8f82c08b33548185d8a875eb1e90";
  EXPECT_EQ(absl::BytesToHexString(bytes), golden);
  const ReadResult result = Read(absl::HexStringToBytes(golden), 64);
  ASSERT_TRUE(result.status.ok()) << result.status;
  EXPECT_EQ(result.layers, SmallLayers());
  EXPECT_EQ(result.digest, "a30ee3400939341de88d8f82c08b3354");
}

}  // namespace
}  // namespace calib
