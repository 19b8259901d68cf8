#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <random>
#include <string>
#include <vector>

#include "google/protobuf/stubs/logging.h"
#include "proto/codec/error.h"
#include "server/export/qdq/qdq_model.h"
#include "tests/export/onnx_fixture.h"

namespace calib::server {
namespace {

using ::testing::HasSubstr;

std::vector<QdqTensor> SomeTensors() {
  return {Activation("x"), Activation("relu"), Activation("y"), SymmetricWeight("proj", {0.5F, 0.25F}, 1)};
}

// An answer or a refusal with a reason, and bytes that are a model.
v1::ErrorReason Outcome(const std::string& bytes) {
  const absl::StatusOr<QdqModel> made = MakeQdqModel(bytes, SomeTensors(), {});
  if (!made.ok()) {
    const v1::ErrorReason reason = GetReason(made.status());
    EXPECT_TRUE(reason == v1::ERROR_REASON_EXPORT_INPUT_INVALID || reason == v1::ERROR_REASON_NOT_EXPORTABLE)
        << made.status();
    return reason;
  }
  onnx::ModelProto model;
  EXPECT_TRUE(model.ParseFromString(made->bytes));
  return v1::ERROR_REASON_UNSPECIFIED;
}

absl::Status DamageRefusal(const std::string& bytes) { return MakeQdqModel(bytes, {}, {}).status(); }

TEST(QdqDamageTest, InputsThatAreNoModels) {
  for (const std::string& bytes : {std::string(), std::string("model"), std::string(1000, '\0'),
                                   std::string("{\"ir_version\": 8}"), std::string("PK\x03\x04 a zip file")}) {
    EXPECT_EQ(GetReason(DamageRefusal(bytes)), v1::ERROR_REASON_EXPORT_INPUT_INVALID);
  }
}

TEST(QdqDamageTest, WhatAModelMustHave) {
  const auto refusal = [](auto change) {
    onnx::ModelProto model = SmallNetwork();
    change(&model);
    const absl::Status status = DamageRefusal(model.SerializeAsString());
    EXPECT_EQ(GetReason(status), v1::ERROR_REASON_EXPORT_INPUT_INVALID);
    return std::string(status.message());
  };
  EXPECT_THAT(refusal([](auto* model) { model->clear_graph(); }), HasSubstr("no graph"));
  EXPECT_THAT(refusal([](auto* model) { model->clear_ir_version(); }), HasSubstr("ir_version"));
  EXPECT_THAT(refusal([](auto* model) { model->set_ir_version(3); }), HasSubstr("IR version 3"));
  EXPECT_THAT(refusal([](auto* model) { model->clear_opset_import(); }), HasSubstr("opset_import"));
  EXPECT_THAT(refusal([](auto* model) { model->mutable_opset_import(0)->set_version(-1); }), HasSubstr("-1"));
  EXPECT_THAT(refusal([](auto* model) { model->add_opset_import()->set_version(11); }), HasSubstr("only one"));
  EXPECT_THAT(refusal([](auto* model) { model->mutable_graph()->mutable_node(1)->set_output(0, "conv"); }),
              HasSubstr("\"conv\" twice"));
  EXPECT_THAT(refusal([](auto* model) { model->mutable_graph()->mutable_node(1)->set_output(0, "x"); }),
              HasSubstr("\"x\" twice"));
  EXPECT_THAT(refusal([](auto* model) { model->mutable_graph()->mutable_initializer(1)->set_name("proj"); }),
              HasSubstr("\"proj\" twice"));
}

TEST(QdqDamageTest, AWeightsNameHasToBeText) {
  onnx::ModelProto model = ParseText("network (float[2, 2] x) => (float[2, 2] y) { y = MatMul(x, w) }");
  AddWeight("\xff", {2, 2}, {1, 2, 3, 4}, &model);
  model.mutable_graph()->mutable_node(0)->set_input(1, "\xff");
  EXPECT_THAT(std::string(DamageRefusal(model.SerializeAsString()).message()), HasSubstr("not UTF-8"));
}

TEST(QdqDamageTest, FilesCutShortAtAnyByte) {
  const google::protobuf::LogSilencer silencer;
  const std::string bytes = SmallNetwork().SerializeAsString();
  ASSERT_EQ(Outcome(bytes), v1::ERROR_REASON_UNSPECIFIED);
  // The opset is the last field.
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_EQ(Outcome(bytes.substr(0, size)), v1::ERROR_REASON_EXPORT_INPUT_INVALID) << size;
  }
}

TEST(QdqDamageTest, FlippedBytes) {
  const google::protobuf::LogSilencer silencer;
  onnx::ModelProto model = SmallNetwork();
  // With a body, so that its parts are hit too.
  const onnx::ModelProto with_body = ParseText(R"(
      network (float[2] x, bool c) => (float[2] z) {
        z = If(c) <then_branch = a () => (float[2] t) { t = Exp(x) }, else_branch = b () => (float[2] e) { e = Neg(x) }>
      })");
  *model.mutable_graph()->add_node() = with_body.graph().node(0);
  const std::string bytes = model.SerializeAsString();
  std::mt19937 random(6);
  size_t made = 0;
  for (int round = 0; round < 5000; ++round) {
    std::string damaged = bytes;
    for (size_t flips = random() % 3 + 1; flips > 0; --flips) {
      damaged[random() % damaged.size()] = static_cast<char>(random() & 0xff);
    }
    if (Outcome(damaged) == v1::ERROR_REASON_UNSPECIFIED) ++made;
  }
  // Most bytes are weights.
  EXPECT_GT(made, 250U);
  EXPECT_LT(made, 5000U);
}

TEST(QdqDamageTest, BodiesInBodies) {
  // Deeper than protobuf parses.
  onnx::ModelProto model = SmallNetwork();
  onnx::GraphProto* graph = model.mutable_graph();
  for (int depth = 0; depth < 200; ++depth) {
    onnx::AttributeProto* const attribute = graph->add_node()->add_attribute();
    attribute->set_name("body");
    graph = attribute->mutable_g();
  }
  EXPECT_EQ(Outcome(model.SerializeAsString()), v1::ERROR_REASON_EXPORT_INPUT_INVALID);
}

}  // namespace
}  // namespace calib::server
