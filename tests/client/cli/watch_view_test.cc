#include "client/cli/watch_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

namespace calib::cli {
namespace {

using testing::HasSubstr;

v1::WatchQParamsResponse State() {
  v1::WatchQParamsResponse state;
  state.mutable_session()->set_name("demo");
  state.mutable_session()->set_values(1000);
  state.mutable_session()->set_updates_applied(7);
  state.mutable_session()->set_layer_count(2);
  state.mutable_session()->set_worker_count(2);
  v1::WorkerStatus* worker = state.add_worker();
  worker->set_worker_id("one");
  worker->set_applied(5);
  worker->set_durable(3);
  worker->set_connected(true);
  state.add_worker()->set_worker_id("two");
  return state;
}

TEST(WatchViewTest, LineSaysHowFarWorkersLag) {
  EXPECT_EQ(WatchLine(State()),
            "demo: open, 1000 values, 7 updates (2 not durable yet), 2 layers, 1 of 2 workers connected");
}

TEST(WatchViewTest, LayersOfEarlierStatesStay) {
  WatchView view;
  v1::WatchQParamsResponse state = State();
  state.add_layer()->set_layer("conv1");
  view.Update(state);
  state = State();
  state.add_layer()->set_layer("fc1");
  view.Update(state);
  EXPECT_THAT(view.Screen(), testing::AllOf(HasSubstr("\nconv1"), HasSubstr("\nfc1")));
}

// The output of a test is no terminal, which counts as 24 lines.
TEST(WatchViewTest, ScreenHasNoMoreLinesThanTheTerminal) {
  WatchView view;
  v1::WatchQParamsResponse state = State();
  for (int i = 0; i < 100; ++i) state.add_layer()->set_layer("layer" + std::to_string(i));
  view.Update(state);
  const std::string screen = view.Screen();
  EXPECT_EQ(std::count(screen.begin(), screen.end(), '\n'), 23);
  EXPECT_THAT(screen, HasSubstr("more lines\n"));
}

}  // namespace
}  // namespace calib::cli
