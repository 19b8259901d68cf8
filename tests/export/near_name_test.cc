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

}  // namespace
}  // namespace calib::server
