#include "server/base/thread_pool.h"

#include <vector>

#include "gtest/gtest.h"
#include "tests/engine/engine_fixture.h"

namespace calib::server::test {
namespace {

TEST(ThreadPoolTest, RunsInOrderAndToTheEnd) {
  std::vector<int> ran;
  {
    ThreadPool pool(1);
    for (int i = 0; i < 100; ++i) pool.Schedule([&ran, i] { ran.push_back(i); });
  }
  ASSERT_EQ(ran.size(), 100u);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(ran[i], i);
}

TEST(ThreadPoolTest, RunsInParallel) {
  Event first, second;
  ThreadPool pool(2);
  pool.Schedule([&] {
    first.Set();
    EXPECT_TRUE(second.Wait());
  });
  pool.Schedule([&] {
    EXPECT_TRUE(first.Wait());
    second.Set();
  });
  EXPECT_TRUE(second.Wait());
}

TEST(ThreadPoolTest, TasksMaySchedule) {
  Event done;
  ThreadPool pool(1);
  pool.Schedule([&] { pool.Schedule([&] { done.Set(); }); });
  EXPECT_TRUE(done.Wait());
}

}  // namespace
}  // namespace calib::server::test
