#include "server/engine/checkpointer.h"

#include <atomic>
#include <chrono>

#include "gtest/gtest.h"
#include "tests/engine/engine_fixture.h"

namespace calib::server::test {
namespace {

TEST(CheckpointerTest, RunsOnRequestOnly) {
  std::atomic<int> runs{0};
  Event ran;
  {
    Checkpointer checkpointer(absl::InfiniteDuration(), [&] {
      ++runs;
      ran.Set();
    });
    checkpointer.Request();
    EXPECT_TRUE(ran.Wait());
  }
  EXPECT_EQ(runs, 1);
}

TEST(CheckpointerTest, RunsEveryInterval) {
  std::atomic<int> runs{0};
  Event ran;
  Checkpointer checkpointer(absl::Milliseconds(1), [&] {
    if (++runs == 3) ran.Set();
  });
  EXPECT_TRUE(ran.Wait());
}

TEST(CheckpointerTest, RequestsDuringARunGetOneMore) {
  std::atomic<int> runs{0};
  Event begun, go_on;
  {
    Checkpointer checkpointer(absl::InfiniteDuration(), [&] {
      if (++runs > 1) return;
      begun.Set();
      EXPECT_TRUE(go_on.Wait());
    });
    checkpointer.Request();
    ASSERT_TRUE(begun.Wait());
    for (int i = 0; i < 10; ++i) checkpointer.Request();
    go_on.Set();
  }
  EXPECT_EQ(runs, 2);
}

TEST(CheckpointerTest, FollowsSuggestionsOnceTheyAreManyOrOne) {
  for (const int suggestions : {1, 10}) {
    std::atomic<int> runs{0};
    Event begun, go_on, again;
    {
      Checkpointer checkpointer(absl::InfiniteDuration(), [&] {
        if (++runs > 1) return again.Set();
        begun.Set();
        EXPECT_TRUE(go_on.Wait());
      });
      checkpointer.Suggest();
      ASSERT_TRUE(begun.Wait());
      for (int i = 0; i < suggestions; ++i) checkpointer.Suggest();
      go_on.Set();
      EXPECT_TRUE(again.Wait());
    }
    EXPECT_EQ(runs, 2);
  }
}

TEST(CheckpointerTest, SuggestionsLeaveMostOfTheTime) {
  using Clock = std::chrono::steady_clock;
  int runs = 0;
  Clock::duration first{};
  Clock::time_point end, second;
  Event begun, again;
  {
    Checkpointer checkpointer(absl::InfiniteDuration(), [&] {
      if (++runs > 1) {
        second = Clock::now();
        return again.Set();
      }
      begun.Set();
      const Clock::time_point begin = Clock::now();
      do end = Clock::now();
      while (end - begin < std::chrono::milliseconds(2));
      first = end - begin;
    });
    checkpointer.Suggest();
    ASSERT_TRUE(begun.Wait());
    checkpointer.Suggest();
    EXPECT_TRUE(again.Wait());
  }
  // The whole run took at least what was measured of it; that the machine is slow can only make the wait longer.
  EXPECT_GE(second - end, 19 * first);
}

TEST(CheckpointerTest, ARequestIsServedWhileASuggestionHasToWait) {
  std::atomic<int> runs{0};
  Event begun, go_on, again;
  Checkpointer checkpointer(absl::InfiniteDuration(), [&] {
    if (++runs > 1) return again.Set();
    begun.Set();
    EXPECT_TRUE(go_on.Wait());
  });
  checkpointer.Request();
  ASSERT_TRUE(begun.Wait());
  checkpointer.Suggest();
  checkpointer.Request();
  go_on.Set();
  EXPECT_TRUE(again.Wait());
}

TEST(CheckpointerTest, ServesARequestBeforeItEnds) {
  std::atomic<int> runs{0};
  {
    Checkpointer(absl::InfiniteDuration(), [&] { ++runs; }).Request();
  }
  EXPECT_EQ(runs, 1);
}

}  // namespace
}  // namespace calib::server::test
