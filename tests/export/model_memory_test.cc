#include "server/export/qdq/model_memory.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "google/protobuf/stubs/logging.h"
#include "onnx/onnx_pb.h"
#include "tests/export/onnx_fixture.h"

namespace calib::server {
namespace {

constexpr int kMany = 20000;

// A field with these bytes.
std::string Delimited(int number, const std::string& bytes) {
  std::string wire;
  for (size_t varint : {static_cast<size_t>(number) << 3 | 2, bytes.size()}) {
    for (; varint >= 0x80; varint >>= 7) wire.push_back(static_cast<char>(varint | 0x80));
    wire.push_back(static_cast<char>(varint));
  }
  return wire + bytes;
}

std::string Repeated(const std::string& bytes) {
  std::string all;
  for (int i = 0; i < kMany; ++i) all += bytes;
  return all;
}

std::string Graph(const std::string& bytes) { return Delimited(onnx::ModelProto::kGraphFieldNumber, bytes); }
std::string Node(const std::string& bytes) { return Graph(Delimited(onnx::GraphProto::kNodeFieldNumber, bytes)); }
std::string Attribute(const std::string& bytes) {
  return Node(Delimited(onnx::NodeProto::kAttributeFieldNumber, bytes));
}
std::string Tensor(const std::string& bytes) {
  return Graph(Delimited(onnx::GraphProto::kInitializerFieldNumber, bytes));
}

TEST(ModelMemoryTest, IsNoLessThanWhatParsingTakes) {
  const google::protobuf::LogSilencer silencer;
  const std::string varint("\x01", 1), unknown_varint("\xf8\x06\x01", 3), unknown_bytes("\xfa\x06\x01x", 4),
      unknown_group("\xfb\x06\xf8\x06\x01\xfc\x06", 7);
  for (const std::string& bytes :
       {Graph(Repeated(Delimited(onnx::GraphProto::kNodeFieldNumber, ""))),
        Graph(Repeated(Delimited(onnx::GraphProto::kInitializerFieldNumber, ""))),
        Graph(Repeated(Delimited(onnx::GraphProto::kValueInfoFieldNumber, Delimited(2, "")))),
        Graph(Repeated(Delimited(onnx::GraphProto::kNodeFieldNumber, Delimited(1, "x") + Delimited(2, "y")))),
        Graph(Repeated(Delimited(onnx::GraphProto::kNodeFieldNumber, unknown_varint))),
        Graph(Repeated(Delimited(onnx::GraphProto::kNodeFieldNumber, Delimited(5, Delimited(6, Delimited(1, "")))))),
        Node(Repeated(Delimited(onnx::NodeProto::kInputFieldNumber, ""))),
        Node(Repeated(Delimited(onnx::NodeProto::kOutputFieldNumber, std::string(40, 'x')))),
        Attribute(Repeated("\x40\x01")),
        Attribute(Delimited(8, Repeated(varint))),
        Attribute(Repeated(Delimited(8, varint))),
        Attribute(Delimited(7, Repeated("abcd"))),
        Attribute(Repeated("\xa0\x01\x7f")),
        Tensor(Delimited(7, Repeated(varint))),
        Tensor(Delimited(5, Repeated(varint))),
        Tensor(Delimited(9, Repeated(varint))),
        Graph(Repeated(unknown_varint)),
        Graph(Repeated(unknown_bytes)),
        Graph(Repeated(unknown_group)),
        SmallNetwork().SerializeAsString()}) {
    onnx::ModelProto model;
    ASSERT_TRUE(model.ParseFromString(bytes)) << bytes.substr(0, 40);
    EXPECT_GE(ModelMemory(bytes) + sizeof(model), model.SpaceUsedLong()) << bytes.substr(0, 40);
  }
}

TEST(ModelMemoryTest, WeightsTakeLittleMoreThanTheirBytes) {
  onnx::ModelProto model = SmallNetwork();
  model.mutable_graph()->mutable_initializer(0)->set_raw_data(std::string(10 << 20, 'x'));
  const std::string bytes = model.SerializeAsString();
  EXPECT_LT(ModelMemory(bytes), bytes.size() + (64 << 10));
}

TEST(ModelMemoryTest, WeightsOfManyChannelsTakeMore) {
  const auto memory = [](int64_t channels, int64_t size) {
    onnx::ModelProto model = ParseText("network (float[2, 2] x) => (float[2, 2] y) { y = Conv(x, w) }");
    AddWeight("w", {channels, size}, std::vector<float>(static_cast<size_t>(channels * size)), &model);
    return ModelMemory(model.SerializeAsString());
  };
  EXPECT_GT(memory(1'000'000, 1), memory(1'000, 1'000) + 30'000'000);
}

TEST(ModelMemoryTest, CountsToTheDamage) {
  const std::string nodes = Graph(Repeated(Delimited(onnx::GraphProto::kNodeFieldNumber, "")));
  for (const std::string& end :
       {std::string("\xff"), std::string("\x3a\x7f"), std::string("\x0c"), std::string(9, '\0'), std::string("\x0f"),
        std::string("\x3a\xff\xff\xff\xff\x0f"), std::string("\x0b")}) {
    EXPECT_GE(ModelMemory(nodes + end), ModelMemory(nodes));
    EXPECT_LT(ModelMemory(nodes + end), ModelMemory(nodes) + 4096);
  }
  // Deeper than protobuf parses.
  EXPECT_LT(ModelMemory(Graph(Repeated("\x0b"))), uint64_t{1} << 20);
  EXPECT_EQ(ModelMemory(""), 0u);
}

}  // namespace
}  // namespace calib::server
