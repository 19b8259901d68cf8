#include "client/cli/format.h"

#include <gtest/gtest.h>

#include "client/cli/table.h"

namespace calib::cli {
namespace {

TEST(FormatTest, PrintableHasNoControlCharacters) {
  EXPECT_EQ(Printable("conv1.weight"), "conv1.weight");
  EXPECT_EQ(Printable("a\x1b[31mb\n\x7f"), "a?[31mb??");
  EXPECT_EQ(Printable("Schicht \xc3\xa4"), "Schicht \xc3\xa4");
  EXPECT_EQ(Printable("csi \xc2\x9b"
                      "31m"),
            "csi ?31m");
  EXPECT_EQ(Printable("\xc2"), "\xc2");
}

TEST(FormatTest, Numbers) {
  EXPECT_EQ(FormatNumber(0.1f), "0.1");
  EXPECT_EQ(FormatNumber(-0.0), "0");
  EXPECT_EQ(FormatNumber(-1234567), "-1.23457e+06");
  EXPECT_EQ(FormatNumbers({}), "-");
  EXPECT_EQ(FormatNumbers({0.5}), "0.5");
  EXPECT_EQ(FormatNumbers({0.5, 0.5}), "0.5");
  EXPECT_EQ(FormatNumbers({0.5, 0.25, 1}), "0.25..1");
  EXPECT_EQ(FormatCount(999999), "999999");
  EXPECT_EQ(FormatCount(12345678), "12.3 M");
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(999), "999 B");
  EXPECT_EQ(FormatBytes(8242000), "8.2 MB");
  EXPECT_EQ(FormatBytes(999900), "1.0 MB");
}

TEST(FormatTest, ShapesAsNumPyWritesThem) {
  EXPECT_EQ(FormatShape({}), "()");
  EXPECT_EQ(FormatShape({6}), "(6,)");
  EXPECT_EQ(FormatShape({6, 32}), "(6, 32)");
}

TEST(TableTest, AlignsColumnsByCodePoints) {
  Table table({{"LAYER", Table::Align::kLeft}, {"COUNT"}});
  table.AddRow({"\xc3\xa4\xc3\xb6", "1"});
  table.AddRow({"conv\n1", "123456"});
  EXPECT_EQ(table.ToString(),
            "LAYER    COUNT\n"
            "\xc3\xa4\xc3\xb6           1\n"
            "conv?1  123456\n");
}

}  // namespace
}  // namespace calib::cli
