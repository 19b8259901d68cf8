// The bytes of format version 1. When one of these fails the format has changed: that needs a new version, and code
// that still reads this one.
#include <cstdint>
#include <memory>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/store/checksum.h"
#include "server/store/keys.h"
#include "server/store/record_codec.h"
#include "server/store/row.h"
#include "tests/store/checkpoints.h"
#include "tests/store/store_folder.h"

namespace calib::server::test {
namespace {

using ::testing::HasSubstr;

std::string Hex(absl::string_view bytes) { return absl::BytesToHexString(bytes); }

// Key and value of a row.
std::string RowHex(const RowKey& key, const google::protobuf::MessageLite& message) {
  const std::string encoded = EncodeKey(key);
  return absl::StrCat(Hex(encoded), " ", Hex(EncodeRow(encoded, message)->value));
}

TEST(FormatTest, StoreRow) {
  store::v1::StoreRow row;
  row.set_epoch(1700000000123456);
  row.set_commit(300);
  row.set_sessions(2);
  row.set_session_sum(0x0123456789abcdef);
  EXPECT_EQ(RowHex({.kind = RowKind::kStore}, row),
            "0073746f7265 0108c0c480c1c1c4820310ac02180221efcdab8967452301e5914e3b25cb66e9");
}

TEST(FormatTest, SessionRow) {
  SessionRecord session = PlainCheckpoint("s").session;
  session.update_time = session.create_time + absl::Nanoseconds(1);
  session.sealed = true;
  session.toggles = {{"a*", true}, {"b", false}};
  session.values_ignored = 5;
  session.imports = {{"d", {"u", "v"}}};
  FoldedStep step{.step = 7, .world_epoch = 1, .ranks = {true, false, true}};
  step.layers = {{.name = "x", .rows = {{-1, 2, -0.5f, 1}}, .params = {{0.5f, -3}}, .learned_zero_point = {0.25f}}};
  session.steps = {.world_epoch = 1,
                   .world_size = 3,
                   .folded_step = 7,
                   .partial_steps = 1,
                   .failed_steps = 2,
                   .late_contributions = 3,
                   .repeated_contributions = 4};
  session.steps.kept.push_back(std::make_shared<const FoldedStep>(step));
  store::v1::SessionRow row = EncodeSession(session);
  row.set_workers(1);
  row.set_layers(2);
  row.set_row_sum(0xfedcba9876543210);
  EXPECT_EQ(RowHex({.kind = RowKind::kSession, .session = "s"}, row),
            "01730000 010a203031323334353637383961626364656630313233343536373839616263646566122a0a130a05736b69702"
            "a1801220808081001200128010a110a012a120208012208080810012001280110051900002a36fe9c97172101002a36fe9c9"
            "717280132060a02612a100132030a0162380140054a090a01641201751201765245080110031807200128023003380442350"
            "807100118032201052a2a0a01781204000080bf1a04000000402204000000bf2a040000803f32040000003f3a01054204000"
            "0803e58016002691032547698badcfe3c0bc44605df598b");
}

TEST(FormatTest, WorkerRow) {
  const WorkerRecord worker{
      .id = "w", .display_name = "n", .ordinal = 258, .incarnation = 3, .applied = 400, .lost = 5};
  EXPECT_EQ(RowHex({.kind = RowKind::kWorker, .session = "s", .ordinal = 258}, EncodeWorker(worker)),
            "0173000100000102 010a017712016e18032090032805df52e81b201ab0c8");
}

TEST(FormatTest, LayerRow) {
  LayerStatistics statistics{ObserverConfig{}};
  ASSERT_TRUE(statistics.SetChannelCount(1).ok());
  ChannelStatistics& channel = statistics.mutable_channels()[0];
  channel.range = {.min = 1, .max = 2, .count = 300, .nan = 3, .positive_infinity = 4, .negative_infinity = 5};
  channel.histogram->AddKey(0x3f80, 299);
  channel.histogram->AddKey(0x4000, 1);
  const LayerRecord layer{"x", std::make_shared<const LayerStatistics>(statistics), {0, 2}};
  EXPECT_EQ(RowHex({.kind = RowKind::kLayer, .session = "s", .layer = "x"}, EncodeLayer(layer)),
            "0173000278 010a360a01001a02ac0222040000803f2a04000000403201033a01044201054a18080710011a037f800122021"
            "2112a0200003205002b01000112020002bf4a78b26c85f9bc");
}

TEST(FormatTest, CommitMark) {
  const StoreFolder folder;
  auto store = StoreIn(folder);
  const uint64_t epoch = store->Open().value();
  ASSERT_TRUE(store->Commit(epoch, {PlainCheckpoint("s")}).ok());
  const std::string mark = folder.Read("COMMITTED");
  ASSERT_EQ(mark.size(), 4096u + 16u);
  EXPECT_EQ(Hex(mark.substr(0, 16)), "0200000000000000a8ad2a5aa2cc707d");
  EXPECT_EQ(Hex(mark.substr(4096)), "01000000000000007aa13ca78b79bfd7");
}

TEST(FormatTest, RowsOfOtherVersionsAreRefused) {
  const std::string key = EncodeKey({.kind = RowKind::kStore});
  const std::string value = EncodeRow(key, store::v1::StoreRow())->value;
  EXPECT_TRUE(CheckRow(key, value).ok());
  for (size_t size = 0; size < value.size(); ++size) {
    EXPECT_EQ(CheckRow(key, value.substr(0, size)).status().code(), absl::StatusCode::kDataLoss);
  }
  EXPECT_EQ(CheckRow(key + "x", value).status().code(), absl::StatusCode::kDataLoss);
  std::string body = absl::StrCat("\x02", value.substr(1, value.size() - 9), "what version 2 has more");
  const uint64_t checksum = Checksum(key, body);
  for (int shift = 0; shift < 64; shift += 8) body.push_back(static_cast<char>(checksum >> shift));
  const absl::Status newer = CheckRow(key, body).status();
  EXPECT_EQ(newer.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(newer.message()), HasSubstr("format version 2, written by a newer calibd"));
}

TEST(FormatTest, KeysReadBackInTheirOrder) {
  const RowKey keys[] = {{.kind = RowKind::kStore},
                         {.kind = RowKind::kSession, .session = "a"},
                         {.kind = RowKind::kWorker, .session = "a", .ordinal = 1},
                         {.kind = RowKind::kWorker, .session = "a", .ordinal = 255},
                         {.kind = RowKind::kWorker, .session = "a", .ordinal = 256},
                         {.kind = RowKind::kLayer, .session = "a", .layer = "\xff"},
                         {.kind = RowKind::kSession, .session = "a."},
                         {.kind = RowKind::kLayer, .session = "a.", .layer = absl::string_view("\0x", 2)}};
  std::string last;
  for (const RowKey& key : keys) {
    const std::string encoded = EncodeKey(key);
    EXPECT_LT(last, encoded);
    last = encoded;
    const absl::StatusOr<RowKey> decoded = DecodeKey(encoded);
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    EXPECT_EQ(decoded->ToString(), key.ToString());
    EXPECT_EQ(EncodeKey(*decoded), encoded);
  }
  for (const std::string& wrong : {std::string(), std::string("\0stor", 5), std::string("\1a"), std::string("\1a\0", 3),
                                   std::string("\1a\0\0x", 5), std::string("\1a\0\1abc", 7), std::string("\1a\0\3", 4),
                                   std::string("\2a\0\0", 4)}) {
    EXPECT_EQ(DecodeKey(wrong).status().code(), absl::StatusCode::kDataLoss) << Hex(wrong);
  }
}

}  // namespace
}  // namespace calib::server::test
