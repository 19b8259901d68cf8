#include "server/rpc/read_budget.h"

#include <gtest/gtest.h>

namespace calib::server {
namespace {

TEST(ReadBudgetTest, WaitersGoOnOnceHalfIsFree) {
  ReadBudget budget(100);
  int resumed = 0;
  const auto resume = [&resumed] { ++resumed; };
  EXPECT_TRUE(budget.MayRead(resume));
  budget.Acquire(60);
  EXPECT_TRUE(budget.MayRead(resume));
  budget.Acquire(60);
  EXPECT_FALSE(budget.MayRead(resume));
  EXPECT_FALSE(budget.MayRead(resume));
  budget.Release(60);
  EXPECT_EQ(resumed, 0) << "60 of 100 are still held";
  EXPECT_TRUE(budget.MayRead(resume)) << "who asks now need not wait";
  budget.Release(60);
  EXPECT_EQ(resumed, 2);
  budget.Release(0);
  EXPECT_EQ(resumed, 2) << "once each";
}

TEST(ReadBudgetTest, AWaiterIsWokenByTheLastRelease) {
  ReadBudget budget(1);
  bool resumed = false;
  budget.Acquire(1);
  EXPECT_FALSE(budget.MayRead([&resumed] { resumed = true; }));
  budget.Release(1);
  EXPECT_TRUE(resumed);
}

}  // namespace
}  // namespace calib::server
