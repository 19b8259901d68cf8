#include "proto/codec/utf8.h"

#include <gtest/gtest.h>

#include <string>

namespace calib {
namespace {

TEST(Utf8Test, AcceptsWellFormedText) {
  for (const char* const text :
       {"", "model.layers.3.mlp.act", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xee\x80\x80",
        "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf", "Faltung\xc3\xa4 \xe5\xb1\xa4 \xf0\x9f\x8e\x9a"}) {
    EXPECT_TRUE(IsValidUtf8(text)) << text;
    EXPECT_EQ(ToValidUtf8(text), text);
  }
  const std::string with_nul("a\0b", 3);
  EXPECT_TRUE(IsValidUtf8(with_nul));
  EXPECT_EQ(ToValidUtf8(with_nul), with_nul);
}

TEST(Utf8Test, RefusesMalformedText) {
  for (const char* const text : {
           "\x80", "a\xbf",                                             // continuation without lead
           "\xc2", "\xe1\x80", "\xf1\x80\x80", "\xc2z",                 // cut short
           "\xc0\xaf", "\xc1\xbf", "\xe0\x9f\xbf", "\xf0\x8f\xbf\xbf",  // overlong
           "\xed\xa0\x80", "\xed\xbf\xbf",                              // surrogates
           "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff",              // above U+10FFFF
       }) {
    EXPECT_FALSE(IsValidUtf8(text));
    EXPECT_TRUE(IsValidUtf8(ToValidUtf8(text)));
  }
}

TEST(Utf8Test, ReplacesBytesThatAreNoCharacter) {
  EXPECT_EQ(ToValidUtf8("a\xff"
                        "b"),
            "a\xef\xbf\xbd"
            "b");
  EXPECT_EQ(ToValidUtf8("\xc3\xa4\xe2\x82"), "\xc3\xa4\xef\xbf\xbd\xef\xbf\xbd");
}

}  // namespace
}  // namespace calib
