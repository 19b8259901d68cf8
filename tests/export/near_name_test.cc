#include "server/export/qdq/near_name.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace calib::server {
namespace {

TEST(NearNameTest, TakesTheNearest) {
  const std::vector<std::string> names = {"/conv1/Conv_output_0", "/conv2/Conv_output_0", "conv1.bias", "input", "y"};
  EXPECT_EQ(NearName("imput", names), "input");
  EXPECT_EQ(NearName("INPUT.", names), "input");
  EXPECT_EQ(NearName("conv1_bias", names), "conv1.bias");
  EXPECT_EQ(NearName("conv2", names), "/conv2/Conv_output_0");
  EXPECT_EQ(NearName("conv1", names), "conv1.bias");
  EXPECT_EQ(NearName("softmax", names), std::nullopt);
  EXPECT_EQ(NearName("z", names), std::nullopt);
  EXPECT_EQ(NearName("", names), std::nullopt);
  EXPECT_EQ(NearName("input", {}), std::nullopt);
}

TEST(NearNameTest, OtherScriptsAndSigns) {
  const std::vector<std::string> names = {"入力", "出力層", "!", "conv"};
  EXPECT_EQ(NearName("層", names), "出力層");
  EXPECT_EQ(NearName("畳", names), std::nullopt);
  EXPECT_EQ(NearName("?", names), std::nullopt);
}

TEST(NearNameTest, LooksAtNoMoreThanItCanInAMoment) {
  const std::string most(64, 'x'), more(65, 'x');
  EXPECT_EQ(NearName("y" + most.substr(1), {{most}}), most);
  EXPECT_EQ(NearName("y" + more.substr(1), {{more}}), std::nullopt);
  // That it is the same, or contained, is told of long ones too.
  EXPECT_EQ(NearName(more + ".", {{more}}), more);
  EXPECT_EQ(NearName(more, {{"a" + more}}), "a" + more);

  std::vector<std::string> names(9'999, "z");
  names.insert(names.end(), {"input", "output"});
  EXPECT_EQ(NearName("imput", names), "input");
  EXPECT_EQ(NearName("outpud", names), std::nullopt);
}

}  // namespace
}  // namespace calib::server
