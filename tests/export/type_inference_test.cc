#include "server/export/qdq/type_inference.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "tests/export/onnx_fixture.h"

namespace calib::server {
namespace {

constexpr int32_t kUnknown = 0;
constexpr int32_t kFloat = onnx::TensorProto::FLOAT;
constexpr int32_t kHalf = onnx::TensorProto::FLOAT16;
constexpr int32_t kInt8 = onnx::TensorProto::INT8;
constexpr int32_t kUint8 = onnx::TensorProto::UINT8;
constexpr int32_t kInt64 = onnx::TensorProto::INT64;
constexpr int32_t kBool = onnx::TensorProto::BOOL;

int32_t Inferred(const std::string& op_type, const std::vector<int32_t>& inputs, int output = 0,
                 const std::string& domain = "") {
  onnx::NodeProto node;
  node.set_op_type(op_type);
  node.set_domain(domain);
  return InferElementType(node, output, inputs);
}

TEST(TypeInferenceTest, OperatorsKeepTheirFloatingType) {
  EXPECT_EQ(Inferred("Relu", {kHalf}), kHalf);
  EXPECT_EQ(Inferred("Add", {kFloat, kFloat}), kFloat);
  EXPECT_EQ(Inferred("Reshape", {kHalf, kInt64}), kHalf);
  EXPECT_EQ(Inferred("Where", {kBool, kFloat, kFloat}), kFloat);
  EXPECT_EQ(Inferred("DequantizeLinear", {kInt8, kFloat, kInt8}), kFloat);
  EXPECT_EQ(Inferred("OneHot", {kInt64, kInt64, kHalf}), kHalf);
  EXPECT_EQ(Inferred("Gather", {kInt64, kInt64}), kInt64);
}

TEST(TypeInferenceTest, OperatorsThatMakeAnotherType) {
  EXPECT_EQ(Inferred("Shape", {kFloat}), kInt64);
  EXPECT_EQ(Inferred("Shape", {kUnknown}), kInt64);
  EXPECT_EQ(Inferred("Less", {kFloat, kFloat}), kBool);
  EXPECT_EQ(Inferred("TopK", {kHalf, kInt64}, 0), kHalf);
  EXPECT_EQ(Inferred("TopK", {kHalf, kInt64}, 1), kInt64);
  EXPECT_EQ(Inferred("Unique", {kFloat}, 3), kInt64);
  EXPECT_EQ(Inferred("CastLike", {kInt64, kHalf}), kHalf);
  EXPECT_EQ(Inferred("QuantizeLinear", {kFloat, kFloat, kInt8}), kInt8);
  EXPECT_EQ(Inferred("DynamicQuantizeLinear", {kFloat}, 0), kUint8);
  EXPECT_EQ(Inferred("DynamicQuantizeLinear", {kFloat}, 1), kFloat);
  EXPECT_EQ(Inferred("DynamicQuantizeLinear", {kFloat}, 2), kUint8);
  EXPECT_EQ(Inferred("ConstantOfShape", {kInt64}), kFloat);
  EXPECT_EQ(Inferred("RandomNormal", {}), kFloat);
}

TEST(TypeInferenceTest, OperatorsThatKeepTheTypeOfOneInput) {
  EXPECT_EQ(Inferred("Resize", {kHalf, kFloat}), kHalf);
  EXPECT_EQ(Inferred("Resize", {kInt8, kFloat}), kInt8);
  EXPECT_EQ(Inferred("Pow", {kInt64, kFloat}), kInt64);
  EXPECT_EQ(Inferred("OneHot", {kFloat, kFloat, kInt64}), kInt64);
  EXPECT_EQ(Inferred("Resize", {kUnknown, kFloat}), kUnknown);
}

TEST(TypeInferenceTest, AttributesSayTheType) {
  const onnx::ModelProto model = ParseText(R"(
      network (float[2] x) => (float[2] y) {
        a = Cast<to = 10>(x)
        b = ConstantOfShape<value = int64[1] {7}>(s)
        c = EyeLike<dtype = 10>(x)
        d = Constant<value_floats = [1.0]>()
        e = Constant<value_int = 1>()
      })");
  std::vector<int32_t> types;
  for (const onnx::NodeProto& node : model.graph().node()) types.push_back(InferElementType(node, 0, {}));
  EXPECT_EQ(types, std::vector<int32_t>({kHalf, kInt64, kHalf, kFloat, kInt64}));
}

TEST(TypeInferenceTest, WhatCannotBeTold) {
  EXPECT_EQ(Inferred("Relu", {kUnknown}), kUnknown);
  EXPECT_EQ(Inferred("Add", {kFloat, kUnknown}), kUnknown);
  EXPECT_EQ(Inferred("GridSample", {kHalf, kFloat}), kUnknown);
  EXPECT_EQ(Inferred("Relu", {kFloat}, 0, "com.example"), kUnknown);
  EXPECT_EQ(Inferred("CastLike", {kFloat}), kUnknown);
  EXPECT_EQ(Inferred("Relu", {}), kUnknown);
}

TEST(TypeInferenceTest, OtherFloatsAreFoundWhereverTheyAre) {
  const onnx::ModelProto model = SmallNetwork();
  EXPECT_FALSE(HoldsOtherFloats(model));
  for (const int32_t type : {kHalf, int32_t{onnx::TensorProto::BFLOAT16}, int32_t{onnx::TensorProto::DOUBLE}}) {
    onnx::ModelProto declared = model, constant = model, sequence = model, function = model;
    declared.mutable_graph()->add_value_info()->mutable_type()->mutable_tensor_type()->set_elem_type(type);
    EXPECT_TRUE(HoldsOtherFloats(declared));
    constant.mutable_graph()->mutable_initializer(0)->set_data_type(type);
    EXPECT_TRUE(HoldsOtherFloats(constant));
    onnx::TypeProto& sequence_type = *sequence.mutable_graph()->add_input()->mutable_type();
    sequence_type.mutable_sequence_type()->mutable_elem_type()->mutable_tensor_type()->set_elem_type(type);
    EXPECT_TRUE(HoldsOtherFloats(sequence));
    onnx::AttributeProto& to = *function.add_functions()->add_node()->add_attribute();
    to.set_name("to");
    to.set_i(type);
    EXPECT_TRUE(HoldsOtherFloats(function));
    to.set_i(kInt64);
    EXPECT_FALSE(HoldsOtherFloats(function));
  }
}

}  // namespace
}  // namespace calib::server
