#include "quant/observer_config.h"

#include <string>

#include "gtest/gtest.h"

namespace calib {
namespace {

TEST(GlobMatchTest, MatchesWholeText) {
  EXPECT_TRUE(GlobMatch("", ""));
  EXPECT_FALSE(GlobMatch("", "a"));
  EXPECT_TRUE(GlobMatch("*", ""));
  EXPECT_TRUE(GlobMatch("***", "anything"));
  EXPECT_TRUE(GlobMatch("model.layers.*.mlp", "model.layers.3.mlp"));
  EXPECT_FALSE(GlobMatch("model.layers.*.mlp", "model.layers.3.mlp.act"));
  EXPECT_FALSE(GlobMatch("layers", "model.layers"));
  EXPECT_TRUE(GlobMatch("*layers*", "model.layers.1"));
  EXPECT_TRUE(GlobMatch("a*b*c", "a1b2b3c"));
  EXPECT_FALSE(GlobMatch("a*b*c", "a1b2b3"));
  EXPECT_TRUE(GlobMatch("*ab", "aab"));
  EXPECT_FALSE(GlobMatch("?", ""));
  EXPECT_TRUE(GlobMatch("conv?", "conv1"));
  EXPECT_FALSE(GlobMatch("conv?", "conv12"));
}

TEST(GlobMatchTest, OtherCharactersStandForThemselves) {
  EXPECT_TRUE(GlobMatch("a[0-9].b", "a[0-9].b"));
  EXPECT_FALSE(GlobMatch("a[0-9].b", "a5.b"));
  EXPECT_FALSE(GlobMatch("a.b", "axb"));
  EXPECT_TRUE(GlobMatch("a\\*", "a\\xyz"));
}

TEST(GlobMatchTest, QuestionMarkTakesOneCharacterOfAnyLength) {
  EXPECT_TRUE(GlobMatch("?", "\xc3\xa9"));  // U+00E9
  EXPECT_TRUE(GlobMatch("a?b",
                        "a\xe5\xb1\x82"
                        "b"));                      // U+5C42
  EXPECT_TRUE(GlobMatch("?", "\xf0\x9f\xa7\xa0"));  // U+1F9E0
  EXPECT_FALSE(GlobMatch("??", "\xf0\x9f\xa7\xa0"));
  EXPECT_FALSE(GlobMatch("?", "\xc3\xa9x"));
  // Not inside a character: `*` would have to end in its middle.
  EXPECT_FALSE(GlobMatch("*?\xa9", "\xc3\xa9"));
  // Broken sequences are taken byte by byte and never read past the end.
  EXPECT_TRUE(GlobMatch("?", "\xe5"));
  EXPECT_TRUE(GlobMatch("?x", "\xe5x"));
  EXPECT_TRUE(GlobMatch("??", "\x80\x80"));
}

TEST(GlobMatchTest, ManyStarsTakePolynomialTime) {
  std::string pattern;
  for (int i = 0; i < 250; ++i) pattern += "a*";
  // Backtracking into every star would take longer than the universe has.
  EXPECT_FALSE(GlobMatch(pattern + "b", std::string(512, 'a')));
  EXPECT_TRUE(GlobMatch(pattern + "b", std::string(512, 'a') + "b"));
}

TEST(ObserverRulesTest, WithoutRulesEveryLayerHasAPerTensorHistogram) {
  const ObserverRules rules;
  ASSERT_TRUE(rules.Match("any").has_value());
  EXPECT_EQ(*rules.Match("any"), ObserverConfig{});
}

TEST(ObserverRulesTest, FirstMatchWinsSkipSkipsAndNoMatchSkips) {
  ObserverConfig minmax;
  minmax.kind = ObserverKind::kMinMax;
  ObserverConfig per_channel;
  per_channel.channel_axis = -1;
  const ObserverRules rules({{"*.weight", per_channel}, {"debug.*", std::nullopt}, {"*.act", minmax}});
  EXPECT_EQ(rules.Match("debug.weight"), per_channel);
  EXPECT_EQ(rules.Match("debug.act"), std::nullopt);
  EXPECT_EQ(rules.Match("layer.act"), minmax);
  EXPECT_EQ(rules.Match("layer.bias"), std::nullopt);
  EXPECT_EQ(rules.Find("debug.act"), 1u);
  EXPECT_EQ(rules.Find("layer.bias"), 3u);
  EXPECT_EQ(ObserverRules(std::vector<ObserverRules::Rule>{}).Match("any"), std::nullopt);
}

}  // namespace
}  // namespace calib
