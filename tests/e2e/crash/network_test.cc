// Connections break anywhere in a message, and are slow.

#include <gtest/gtest.h>

#include <chrono>

#include "tests/e2e/crash/crash_scene.h"
#include "tests/support/random_tensors.h"

namespace calib::test {
namespace {

class CutNetworkTest : public testing::TestWithParam<uint64_t> {
 protected:
  void Start() {
    scene_.StartServer();
    scene_.CreateSession();
    scene_.StartWorkers();
  }

  CrashScene scene_{{.seed = 5, .steps = GetParam() == 1 ? 60u : 300u, .flush_every = GetParam()}};
};

TEST_P(CutNetworkTest, ConnectionsAreCutInTheMiddleOfMessages) {
  Rng rng(5);
  Start();
  for (int cut = 0; cut < 20; ++cut) {
    const uint64_t bytes = 1 + rng() % 3000;
    const uint64_t before = scene_.proxy().bytes_to_server();
    scene_.proxy().CutAfter(bytes);
    ASSERT_TRUE(scene_.proxy().AwaitBytes(before + bytes, std::chrono::minutes(2)));
  }
  scene_.Finish();
}

TEST_P(CutNetworkTest, WhatIsUnderwayIsLateOrLost) {
  scene_.proxy().SetDelay(std::chrono::milliseconds(15));
  Start();
  ASSERT_TRUE(scene_.AwaitDurable(0, GetParam()));
  scene_.proxy().CutAll();
  ASSERT_TRUE(scene_.AwaitDurable(1, 2 * GetParam()));
  scene_.KillServer();
  scene_.RestartAndCheck();
  ASSERT_TRUE(scene_.AwaitDurable(2, 3 * GetParam()));
  scene_.proxy().SetDelay(std::chrono::milliseconds(0));
  scene_.Finish();
}

INSTANTIATE_TEST_SUITE_P(StepsBetweenFlushes, CutNetworkTest, testing::Values(1, 10));

}  // namespace
}  // namespace calib::test
