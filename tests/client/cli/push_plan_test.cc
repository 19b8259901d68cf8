#include "client/cli/push_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace calib::cli {
namespace {

PushSource Golden(const std::string& layer) {
  auto source = OpenPushSource(layer + "=" + CALIB_GOLDEN_DIR "/digits_cnn/" + layer + ".npy");
  EXPECT_TRUE(source.ok()) << source.status();
  return *std::move(source);
}

std::vector<PushSource> GoldenSources() {
  std::vector<PushSource> sources;
  sources.push_back(Golden("fc1"));
  sources.push_back(Golden("syn_const"));
  return sources;
}

TEST(PushPlanTest, FirstAxisIsTheSteps) {
  const PushSource source = Golden("conv1");
  EXPECT_EQ(source.layer, "conv1");
  EXPECT_EQ(source.steps, 6u);
  EXPECT_THAT(source.step_shape, testing::ElementsAre(32, 16, 8, 8));
  EXPECT_EQ(source.step_elements, 32u * 16 * 8 * 8);
}

TEST(PushPlanTest, TheFirstEqualsSignSeparates) {
  const auto source = OpenPushSource("a=b=c");
  EXPECT_THAT(std::string(source.status().message()), testing::StartsWith("b=c: "));
  EXPECT_FALSE(OpenPushSource("=x.npy").ok());
  EXPECT_FALSE(OpenPushSource("x.npy").ok());
}

// numpy.array_split of 32 rows: the first 32 mod n parts have one more.
TEST(PushPlanTest, PartsAreThoseOfArraySplit) {
  const PushSource source = Golden("fc1");
  const auto rows = [&](int ranks) {
    std::vector<uint64_t> sizes;
    uint64_t next = 0;
    for (int rank = 0; rank < ranks; ++rank) {
      const ElementRun part = PartOfStep(source, ranks, rank);
      EXPECT_EQ(part.begin, next);
      next = part.end;
      sizes.push_back((part.end - part.begin) / 64);
    }
    EXPECT_EQ(next, 32u * 64);
    return sizes;
  };
  EXPECT_THAT(rows(1), testing::ElementsAre(32));
  EXPECT_THAT(rows(7), testing::ElementsAre(5, 5, 5, 5, 4, 4, 4));
  EXPECT_THAT(rows(40), testing::Contains(0u).Times(8));
}

TEST(PushPlanTest, StepsOfAllSourcesTakeTurns) {
  const std::vector<PushSource> sources = GoldenSources();
  const auto steps = PlanSteps(sources, std::nullopt);
  ASSERT_TRUE(steps.ok()) << steps.status();
  ASSERT_EQ(steps->size(), 12u);
  for (size_t i = 0; i < steps->size(); ++i) {
    EXPECT_EQ((*steps)[i].source, i % 2);
    EXPECT_EQ((*steps)[i].index, i / 2);
  }
}

TEST(PushPlanTest, ShufflingKeepsEveryStepAndDependsOnTheSeedAlone) {
  const std::vector<PushSource> sources = GoldenSources();
  const auto order = [&](std::optional<uint64_t> seed) {
    std::vector<std::pair<size_t, uint64_t>> steps;
    const auto plan = PlanSteps(sources, seed);
    EXPECT_TRUE(plan.ok()) << plan.status();
    for (const PushStep& step : plan.value()) steps.emplace_back(step.source, step.index);
    return steps;
  };
  const auto shuffled = order(1);
  EXPECT_EQ(shuffled, order(1));
  EXPECT_NE(shuffled, order(2));
  EXPECT_NE(shuffled, order(std::nullopt));
  EXPECT_THAT(shuffled, testing::UnorderedElementsAreArray(order(std::nullopt)));
}

}  // namespace
}  // namespace calib::cli
