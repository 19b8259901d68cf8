#include "server/export/qdq/tensor_quantization.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "proto/codec/error.h"

namespace calib::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<int> Bytes(const std::string& raw_data) {
  std::vector<int> bytes;
  for (const char c : raw_data) bytes.push_back(static_cast<unsigned char>(c));
  return bytes;
}

TensorQuantization Quantization(absl::string_view type, std::vector<QParams> params, std::optional<int> axis,
                                int64_t qmin, int64_t qmax) {
  return MakeTensorQuantization(ParseQuantType(type).value(), std::move(params), axis, qmin, qmax).value();
}

TEST(TensorQuantizationTest, CodesRoundHalfToEvenAndSaturateAtTheGivenCodes) {
  const std::vector<float> values = {0.25F, 0.75F, 1.25F, -0.25F, -0.75F, 1000, -1000, 0, 3e38F};
  const int64_t dims[] = {9};
  const auto tensor = CodeTensor(Quantization("int8", {{0.5F, 0}}, std::nullopt, -127, 127), "w", dims, values);
  EXPECT_EQ(tensor.data_type(), onnx::TensorProto::INT8);
  EXPECT_EQ(tensor.name(), "w");
  EXPECT_THAT(tensor.dims(), ElementsAre(9));
  EXPECT_THAT(Bytes(tensor.raw_data()), ElementsAre(0, 2, 2, 0, 254, 127, 129, 0, 127));
  // Rounded first: 0.5 + 3 would round to 4.
  EXPECT_THAT(Bytes(CodeTensor(Quantization("uint8", {{0.5F, 3}}, std::nullopt, 0, 255), "w", dims, values).raw_data()),
              ElementsAre(3, 5, 5, 3, 1, 255, 0, 3, 255));
  EXPECT_THAT(Bytes(CodeTensor(Quantization("int16", {{0.5F, 0}}, std::nullopt, -32768, 32767), "w", {dims, 1}, values)
                        .raw_data())
                  .size(),
              18U);
}

TEST(TensorQuantizationTest, EveryChannelHasItsScale) {
  const std::vector<float> values = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  const int64_t dims[] = {2, 3, 2};
  const std::vector<QParams> params = {{1, 0}, {2, 0}, {0.5F, 1}};
  for (const int axis : {1, -2}) {
    EXPECT_THAT(Bytes(CodeTensor(Quantization("int8", params, axis, -128, 127), "w", dims, values).raw_data()),
                ElementsAre(1, 2, 2, 2, 11, 13, 7, 8, 4, 5, 23, 25));
  }
  const TensorQuantization last = Quantization("int8", {{1, 0}, {2, 0}}, 2, -128, 127);
  EXPECT_THAT(Bytes(CodeTensor(last, "w", dims, values).raw_data()), ElementsAre(1, 1, 3, 2, 5, 3, 7, 4, 9, 5, 11, 6));
}

TEST(TensorQuantizationTest, FourBitCodesAreTwoAByte) {
  const std::vector<float> values = {1, -2, 7, -8, 3};
  const int64_t dims[] = {5};
  const auto tensor = CodeTensor(Quantization("int4", {{1, 0}}, std::nullopt, -8, 7), "w", dims, values);
  EXPECT_EQ(tensor.data_type(), 22);
  EXPECT_THAT(Bytes(tensor.raw_data()), ElementsAre(0xe1, 0x87, 0x03));
  const TensorQuantization channels = Quantization("uint4", {{1, 1}, {1, 15}, {1, 2}}, 0, 0, 15);
  EXPECT_THAT(Bytes(ZeroPointTensor(channels, "z").raw_data()), ElementsAre(0xf1, 0x02));
}

TEST(TensorQuantizationTest, Float8CodesAreTheNearestOfTwoTheEven) {
  // E4M3: 1 is 0x38, 1.125 is 0x39, 448 is 0x7e; 2^-9 is 0x01. E5M2: 1 is 0x3c, 57344 is 0x7b.
  const auto e4m3 = [](float value) { return Float8Code(CodeKind::kFloat8E4M3, value); };
  EXPECT_EQ(e4m3(1), 0x38);
  EXPECT_EQ(e4m3(-1), 0xb8);
  EXPECT_EQ(e4m3(1.0625F), 0x38);
  EXPECT_EQ(e4m3(1.1875F), 0x3a);
  EXPECT_EQ(e4m3(1.07F), 0x39);
  EXPECT_EQ(e4m3(0), 0x00);
  EXPECT_EQ(e4m3(-0.F), 0x80);
  EXPECT_EQ(e4m3(0x1p-10F), 0x00);
  EXPECT_EQ(e4m3(0x1.8p-10F), 0x01);
  EXPECT_EQ(e4m3(1e9F), 0x7e);
  EXPECT_EQ(e4m3(-std::numeric_limits<float>::infinity()), 0xfe);
  EXPECT_EQ(Float8Code(CodeKind::kFloat8E5M2, 1), 0x3c);
  EXPECT_EQ(Float8Code(CodeKind::kFloat8E5M2, -1e9F), 0xfb);
}

TEST(TensorQuantizationTest, ParametersThatAreNoneAreRefused) {
  const auto refusal = [](absl::string_view type, std::vector<QParams> params, std::optional<int> axis = std::nullopt) {
    const QuantType parsed = ParseQuantType(type).value();
    const absl::Status status =
        MakeTensorQuantization(parsed, std::move(params), axis, parsed.qmin(), parsed.qmax()).status();
    EXPECT_EQ(GetReason(status), v1::ERROR_REASON_NOT_EXPORTABLE);
    return std::string(status.message());
  };
  for (const char* const type : {"int2", "int12", "int32", "uint1", "uint7", "uint32"}) {
    EXPECT_THAT(refusal(type, {{1, 0}}), HasSubstr(type));
  }
  EXPECT_THAT(refusal("int8", {{0, 0}}), HasSubstr("scale"));
  EXPECT_THAT(refusal("int8", {{-1, 0}}), HasSubstr("scale"));
  EXPECT_THAT(refusal("int8", {{std::numeric_limits<float>::quiet_NaN(), 0}}), HasSubstr("scale"));
  EXPECT_THAT(refusal("int8", {{std::numeric_limits<float>::infinity(), 0}}), HasSubstr("scale"));
  EXPECT_THAT(refusal("uint8", {{1, -1}}), HasSubstr("zero point -1"));
  EXPECT_THAT(refusal("int8", {{1, 128}}), HasSubstr("zero point 128"));
  EXPECT_THAT(refusal("fp8_e4m3", {{1, 1}}), HasSubstr("zero point 1"));
  EXPECT_THAT(refusal("int8", {{1, 0}, {1, 0}}), HasSubstr("axis"));
  EXPECT_THAT(refusal("int8", {}), HasSubstr("0 scales"));
}

TEST(TensorQuantizationTest, AnswersThatAreNoneAreRefused) {
  v1::LayerQParams qparams;
  qparams.mutable_error()->set_message("the layer has seen no finite value");
  EXPECT_THAT(std::string(MakeTensorQuantization(qparams).status().message()), HasSubstr("no finite value"));
  qparams.clear_error();
  qparams.add_scale(1);
  EXPECT_THAT(std::string(MakeTensorQuantization(qparams).status().message()), HasSubstr("0 zero points"));
  qparams.add_zero_point(0);
  qparams.set_qmin(-129);
  qparams.set_qmax(127);
  EXPECT_THAT(std::string(MakeTensorQuantization(qparams).status().message()), HasSubstr("[-129, 127]"));
  qparams.set_qmin(-127);
  EXPECT_TRUE(MakeTensorQuantization(qparams).ok());
}

}  // namespace
}  // namespace calib::server
