#include "client/cli/npy_header.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace calib::cli {
namespace {

using testing::ElementsAre;

TEST(NpyHeaderTest, ReadsWhatNumPyWrites) {
  const auto header = ParseNpyHeader("{'descr': '<f4', 'fortran_order': False, 'shape': (6, 32, 64), }            \n");
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_EQ(header->descr, "<f4");
  EXPECT_FALSE(header->fortran_order);
  EXPECT_THAT(header->shape, ElementsAre(6, 32, 64));
}

TEST(NpyHeaderTest, ReadsAnyOrderAndSpacing) {
  const auto header = ParseNpyHeader("{\"shape\":(7L,),\"descr\":\"<f2\",\"fortran_order\":True}");
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_EQ(header->descr, "<f2");
  EXPECT_TRUE(header->fortran_order);
  EXPECT_THAT(header->shape, ElementsAre(7));
  const auto scalar = ParseNpyHeader("{'descr': '<f4', 'fortran_order': False, 'shape': ()}");
  ASSERT_TRUE(scalar.ok()) << scalar.status();
  EXPECT_TRUE(scalar->shape.empty());
}

TEST(NpyHeaderTest, NoPrefixOfAHeaderIsOne) {
  const std::string text = "{'descr': '<f4', 'fortran_order': False, 'shape': (6, 32)}";
  for (size_t size = 0; size < text.size(); ++size) {
    EXPECT_FALSE(ParseNpyHeader(text.substr(0, size)).ok()) << text.substr(0, size);
  }
  EXPECT_TRUE(ParseNpyHeader(text).ok());
}

TEST(NpyHeaderTest, RefusesTooManyAxes) {
  std::string shape;
  for (int i = 0; i < 65; ++i) shape += "1,";
  EXPECT_FALSE(ParseNpyHeader("{'descr': '<f4', 'fortran_order': False, 'shape': (" + shape + ")}").ok());
}

TEST(NpyHeaderTest, SurvivesEveryChangedByte) {
  const std::string text = "{'descr': '<f4', 'fortran_order': False, 'shape': (6, 32)}";
  int refused = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    for (int byte = 0; byte < 256; ++byte) {
      std::string changed = text;
      changed[i] = static_cast<char>(byte);
      refused += !ParseNpyHeader(changed).ok();
    }
  }
  EXPECT_GT(refused, 10000);
}

}  // namespace
}  // namespace calib::cli
