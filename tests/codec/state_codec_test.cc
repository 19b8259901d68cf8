// What observers hold, written and read back.
#include "proto/codec/state_codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "proto/codec/error.h"
#include "tests/support/random_states.h"

namespace calib {
namespace {

using test::Rng;
using ::testing::HasSubstr;

v1::StatisticsBatch EncodeState(const LayerStatistics& state) {
  v1::StatisticsBatch batch;
  StatisticsWriter().Add(0, state, &batch);
  return batch;
}

TEST(StateCodecTest, EveryStateSurvivesTheRoundTrip) {
  Rng rng(41);
  for (int round = 0; round < 60; ++round) {
    for (const ObserverConfig& observer : test::EveryObserver(4 + round % 4)) {
      const LayerStatistics state = test::RandomState(rng, observer);
      const std::string bytes = EncodeState(state).SerializeAsString();
      v1::StatisticsBatch batch;
      ASSERT_TRUE(batch.ParseFromString(bytes));
      const absl::StatusOr<LayerStatistics> read = DecodeLayerState(observer, batch);
      ASSERT_TRUE(read.ok()) << read.status() << batch.ShortDebugString();
      ASSERT_EQ(*read, state) << batch.ShortDebugString();
      EXPECT_EQ(EncodeState(*read).SerializeAsString(), bytes);
    }
  }
}

TEST(StateCodecTest, WhatTheServerAloneSaysIsNoUpdate) {
  Rng rng(42);
  for (const ObserverKind kind : {ObserverKind::kEma, ObserverKind::kPassive}) {
    LayerStatistics state({.kind = kind});
    for (int i = 0; i < 100 && state.empty(); ++i) state = test::RandomState(rng, state.config());
    StatisticsReader reader;
    const absl::Status status = reader.Decode(EncodeState(state), [&](uint32_t) { return kind; });
    EXPECT_EQ(GetReason(status), v1::ERROR_REASON_STATISTICS_INCONSISTENT);
    EXPECT_THAT(std::string(status.message()), HasSubstr(absl::StrCat("`", ObserverKindName(kind), "` is not empty")));
  }
}

// A state of this observer with values, and learned if it can be.
LayerStatistics FullState(const ObserverConfig& observer, size_t channels) {
  for (uint64_t seed = 0; seed < 10000; ++seed) {
    Rng rng(seed);
    LayerStatistics state = test::RandomState(rng, observer);
    if (state.channels().size() != channels) continue;
    bool full = true;
    for (const ChannelStatistics& channel : state.channels()) {
      full = full && (channel.passive.has_value() || (!channel.range.empty() && channel.range.count < 1000));
      full = full && channel.learned.has_value() == (observer.kind == ObserverKind::kLearned);
      full = full && (!channel.learned.has_value() || channel.learned->steps > 0);
      full = full && (!channel.ema.has_value() || channel.ema->steps > 1);
    }
    if (full) return state;
  }
  ADD_FAILURE() << "no such state";
  return LayerStatistics(observer);
}

ObserverConfig LearnedObserver() {
  LearnedOptions options;
  options.momentum = 0.5;
  return {.kind = ObserverKind::kLearned, .channel_axis = 1, .learned = options};
}

struct MalformedState {
  std::string message;  // a part of it
  std::function<void(v1::StatisticsBatch*)> spoil;
};

void ExpectRefused(const LayerStatistics& state, const std::vector<MalformedState>& cases) {
  ASSERT_TRUE(DecodeLayerState(state.config(), EncodeState(state)).ok());
  for (const MalformedState& malformed : cases) {
    v1::StatisticsBatch batch = EncodeState(state);
    malformed.spoil(&batch);
    const absl::Status status = DecodeLayerState(state.config(), batch).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << malformed.message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(malformed.message));
  }
}

TEST(StateCodecTest, RefusesRowsThatAreNoLayers) {
  ExpectRefused(FullState({.kind = ObserverKind::kMinMax}, 1),
                {{"handle", [](auto* b) { b->set_layer(0, 1); }},
                 {"0 channels", [](auto* b) { b->add_channels(0); }},
                 {"column `count` has 1 entries", [](auto* b) { b->add_channels(2); }},
                 {"column `count` has 1 entries", [](auto* b) { b->clear_layer(); }},
                 {"row 0: -0 as min", [](auto* b) { b->set_min(0, -0.0f), b->set_max(0, 1); }},
                 {"row 0: min", [](auto* b) { b->set_max(0, INFINITY); }},
                 {"`ema` has 1 entries", [](auto* b) { b->add_ema(); }},
                 {"`passive` has 1 entries", [](auto* b) { b->add_passive(); }},
                 {"learns nothing", [](auto* b) { b->add_learned(); }},
                 {"`histogram` has 1 entries", [](auto* b) { b->add_histogram(); }}});
  const v1::StatisticsBatch channels = EncodeState(FullState({.kind = ObserverKind::kMinMax, .channel_axis = 1}, 3));
  EXPECT_THAT(std::string(DecodeLayerState({.kind = ObserverKind::kMinMax}, channels).status().message()),
              HasSubstr("3 rows of a layer that is observed per tensor"));
  v1::StatisticsBatch two = EncodeState(FullState({.kind = ObserverKind::kMinMax}, 1));
  two.MergeFrom(v1::StatisticsBatch(two));
  two.set_layer(1, 7);
  EXPECT_THAT(std::string(DecodeLayerState({.kind = ObserverKind::kMinMax}, two).status().message()),
              HasSubstr("one layer with handle 0 was expected, not 2"));
}

TEST(StateCodecTest, RefusesHistogramsThatNoObserverHas) {
  const auto histogram = [](v1::StatisticsBatch* b) { return b->mutable_histogram(1); };
  ExpectRefused(FullState({.channel_axis = 1}, 2),
                {{"row 1: ", [&](auto* b) { histogram(b)->clear_counts(); }},
                 {"row 1: ", [&](auto* b) { histogram(b)->mutable_page()->Add(600); }},
                 {"row 1: the histogram counts", [](auto* b) { b->set_count(1, b->count(1) + 1); }},
                 {"`histogram` has 1 entries", [](auto* b) { b->mutable_histogram()->RemoveLast(); }}});
  const v1::StatisticsBatch fine = EncodeState(FullState({}, 1));
  EXPECT_THAT(std::string(DecodeLayerState({.mantissa_bits = 5}, fine).status().message()),
              HasSubstr("row 0: a histogram of 7 mantissa bits, where the observer has 5"));
}

TEST(StateCodecTest, RefusesAveragesThatNoStepsGive) {
  const LayerStatistics state = FullState({.kind = ObserverKind::kEma, .channel_axis = 1}, 3);
  ExpectRefused(state, {{"row 2: averages", [](auto* b) { b->mutable_ema(2)->set_max(INFINITY); }},
                        {"row 2: averages", [](auto* b) { b->mutable_ema(2)->set_min(NAN); }},
                        {"row 0: averages", [](auto* b) { b->mutable_ema(0)->set_min(b->ema(0).max() + 1); }},
                        {"row 1: no average", [](auto* b) { b->mutable_ema(1)->set_steps(b->count(1) + 1); }},
                        {"row 1: no average", [](auto* b) { b->mutable_ema(1)->set_steps(0); }},
                        {"`ema` has 2 entries", [](auto* b) { b->mutable_ema()->RemoveLast(); }}});
  LayerStatistics unused(state.config());
  ASSERT_TRUE(unused.SetChannelCount(1).ok());
  ExpectRefused(unused, {{"row 0: an average of no steps", [](auto* b) { b->mutable_ema(0)->set_min(-1); }},
                         {"row 0: no average", [](auto* b) { b->mutable_ema(0)->set_steps(1); }}});
}

TEST(StateCodecTest, RefusesReferenceHistogramsThatNoRuleMakes) {
  for (const ReferenceRule rule :
       {ReferenceRule::kMegengine, ReferenceRule::kPytorch, ReferenceRule::kPytorchCurrent, ReferenceRule::kMxnet}) {
    const auto histogram = [](v1::StatisticsBatch* b) { return b->mutable_reference_histogram(0); };
    const LayerStatistics state =
        FullState({.kind = ObserverKind::kReferenceHistogram, .reference = {.rule = rule, .bins = 65}}, 1);
    ExpectRefused(state, {{"row 0: ", [&](auto* b) { histogram(b)->set_steps(0); }},
                          {"row 0: ", [&](auto* b) { histogram(b)->set_steps(b->count(0) + 1); }},
                          {"row 0: ", [&](auto* b) { histogram(b)->set_low(NAN); }},
                          {"row 0: ", [&](auto* b) { histogram(b)->add_count(0); }},
                          {"row 0: ", [&](auto* b) { histogram(b)->set_count(7, 1e9); }},
                          {"row 0: ", [&](auto* b) { histogram(b)->set_count(7, -1e9); }},
                          {"row 0: ", [&](auto* b) { histogram(b)->set_max(INFINITY); }},
                          {"has 0 entries", [&](auto* b) { b->clear_reference_histogram(); }}});
  }
}

TEST(StateCodecTest, RefusesParametersThatNobodySetsOrLearns) {
  ExpectRefused(FullState({.kind = ObserverKind::kPassive}, 3),
                {{"row 2: 0 is no scale", [](auto* b) { b->mutable_passive(2)->set_scale(0); }},
                 {"row 1: inf is no scale", [](auto* b) { b->mutable_passive(1)->set_scale(INFINITY); }},
                 {"row 1: nan is no scale", [](auto* b) { b->mutable_passive(1)->set_scale(NAN); }},
                 {"row 0: a passive observer counts no values", [](auto* b) { b->set_count(0, 1); }},
                 {"`passive` has 2 entries", [](auto* b) { b->mutable_passive()->RemoveLast(); }}});
  ExpectRefused(FullState(LearnedObserver(), 2),
                {{"row 1: no scale is learned to be 0", [](auto* b) { b->mutable_learned(1)->set_scale(0); }},
                 {"row 1: what is learned names row 2", [](auto* b) { b->mutable_learned(1)->set_row(2); }},
                 {"row 1: learned", [](auto* b) { b->mutable_learned(1)->set_steps(99); }},
                 {"row 0: ", [](auto* b) { b->mutable_learned(0)->set_scale_average(NAN); }},
                 {"all learn, or none", [](auto* b) { b->mutable_learned()->RemoveLast(); }},
                 {"for the batch's 2 rows", [](auto* b) { *b->add_learned() = b->learned(0); }}});
}

TEST(StateCodecTest, MutatedBytesAreRefusedOrReadAsStates) {
  Rng rng(43);
  std::vector<std::pair<ObserverConfig, std::string>> states;
  for (int i = 0; i < 8; ++i) {
    for (const ObserverConfig& observer : test::EveryObserver(4 + i % 4)) {
      states.emplace_back(observer, EncodeState(test::RandomState(rng, observer)).SerializeAsString());
    }
  }
  int refused = 0, read = 0;
  for (int i = 0; i < 20000; ++i) {
    const auto& [observer, valid] = states[i % states.size()];
    std::string bytes = valid;
    for (uint64_t changes = 1 + rng() % 3; changes > 0 && !bytes.empty(); --changes) {
      const size_t at = rng() % bytes.size();
      if (rng() % 3 == 0)
        bytes[at] = static_cast<char>(rng());
      else if (rng() % 2 == 0)
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << rng() % 8));
      else
        bytes.erase(at, 1 + rng() % 4);
    }
    v1::StatisticsBatch batch;
    if (!batch.ParseFromString(bytes)) continue;
    const absl::StatusOr<LayerStatistics> state = DecodeLayerState(observer, batch);
    if (!state.ok()) {
      EXPECT_EQ(state.status().code(), absl::StatusCode::kInvalidArgument);
      EXPECT_FALSE(state.status().message().empty());
      ++refused;
      continue;
    }
    ++read;
    // Whatever was read is a state: it can be written and read again.
    const absl::StatusOr<LayerStatistics> again = DecodeLayerState(observer, EncodeState(*state));
    ASSERT_TRUE(again.ok()) << again.status();
    ASSERT_EQ(*again, *state);
  }
  EXPECT_GT(refused, 1000);
  EXPECT_GT(read, 200);
}

}  // namespace
}  // namespace calib
