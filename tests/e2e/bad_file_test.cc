// What is not a good .npy file: each a clear error that names the file and what is wrong, exit code 1, and a server
// that counted nothing.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "tests/e2e/fleet.h"

namespace calib::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class BadFileTest : public testing::Test {
 protected:
  BadFileTest() { CalibctlOk(server_.address(), {"session", "create", "s"}); }

  // Pushes the file after a good one.
  void ExpectRefused(const std::string& content, const std::string& message) {
    SCOPED_TRACE(message);
    const std::string path = folder_.Write("bad.npy", content);
    const ProcessResult result = Calibctl(server_.address(), {"push", "s", "fc1=" + GoldenFile("fc1"), "bad=" + path});
    EXPECT_EQ(result.exit_code, 1);
    EXPECT_EQ(result.out, "");
    EXPECT_THAT(result.err,
                AllOf(testing::StartsWith("calibctl: " + path + ": "), HasSubstr(message), testing::EndsWith("\n")));
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_EQ(CalibctlJson(server_.address(), {"session", "show", "s"}).at("values"), 0);
  }
  // A header of this text, and no data.
  static std::string WithHeader(const std::string& header) {
    return std::string("\x93NUMPY\x01\x00", 8) + static_cast<char>(header.size()) + std::string(1, '\0') + header;
  }

  Server server_;
  TemporaryFolder folder_;
};

TEST_F(BadFileTest, Garbage) {
  ExpectRefused("", "the file is empty");
  ExpectRefused("PK\x03\x04 a zip archive", "not a .npy file");
  ExpectRefused(std::string(100000, '\xff'), "not a .npy file");
  ExpectRefused("\x93NUMPY", "truncated: it ends inside its header");
  ExpectRefused(std::string("\x93NUMPY\x04\x00", 8) + std::string(100, ' '), "format version 4.0 is not supported");
}

TEST_F(BadFileTest, Headers) {
  ExpectRefused(std::string("\x93NUMPY\x01\x00\xff\x7f", 10) + "{", "truncated: it ends inside its header");
  ExpectRefused(std::string("\x93NUMPY\x02\x00\xff\xff\xff\xff", 12) + "{", "its header claims 4294967295 bytes");
  ExpectRefused(WithHeader("no dictionary"), "its header is malformed: does not begin with {");
  ExpectRefused(WithHeader("{'descr': '<f4'}"), "descr, fortran_order or shape is missing");
  ExpectRefused(WithHeader("{'descr': '<f4', 'fortran_order': 0, 'shape': (1,)}"), "neither True nor False");
  ExpectRefused(WithHeader("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}"), "not a tuple of whole numbers");
  ExpectRefused(WithHeader("{'descr': '<f4', 'fortran_order': False, 'shape': (1"), "shape lacks a comma or its )");
  ExpectRefused(WithHeader("{'descr': '<f4', 'descr': '<f4'}"), "key 'descr' occurs twice");
  ExpectRefused(WithHeader("{'descr': '<f4"), "descr is not a string");
}

TEST_F(BadFileTest, Shapes) {
  ExpectRefused(NpyText("<f4", "(2, 3)", FloatBytes({1, 2, 3})),
                "truncated: shape (2, 3) of '<f4' takes 24 bytes after the header, the file has 12");
  ExpectRefused(NpyText("<f4", "(1,)", FloatBytes({1, 2})), "too long: shape (1,)");
  ExpectRefused(NpyText("<f4", "(0, 3)", ""), "the array of shape (0, 3) has no elements");
  ExpectRefused(NpyText("<f4", "(4294967296, 4294967296)", ""), "its shape (4294967296, 4294967296) is too large");
  ExpectRefused(NpyText("<f4", "(2305843009213693952,)", ""), "is too large");
  ExpectRefused(NpyText("<f4", "(99999999999999999999,)", ""), "not a tuple of whole numbers");
}

TEST_F(BadFileTest, ElementTypes) {
  for (const char* type : {"<f8", ">f4", "<i4", "|u1", "|V2", "<c8"}) {
    ExpectRefused(
        NpyText(type, "(1,)", "12345678"),
        std::string("element type '") + type +
            "' is not supported; calibd takes float32 ('<f4') and float16 ('<f2'): convert with numpy.astype");
  }
  ExpectRefused(WithHeader("{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (1,)}"), "structured array");
  ExpectRefused(WithHeader("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 2)}") + FloatBytes({1, 2, 3, 4}),
                "numpy.ascontiguousarray");
}

TEST_F(BadFileTest, FilesThatCannotBeRead) {
  const ProcessResult missing = Calibctl(server_.address(), {"push", "s", "a=/nowhere/a.npy"});
  EXPECT_EQ(missing.exit_code, 1);
  EXPECT_THAT(missing.err, AllOf(HasSubstr("/nowhere/a.npy"), HasSubstr("No such file")));
  const ProcessResult folder = Calibctl(server_.address(), {"push", "s", "a=/tmp"});
  EXPECT_EQ(folder.exit_code, 1);
  EXPECT_EQ(folder.err, "calibctl: /tmp: not a regular file\n");
  // A named pipe that nobody writes to.
  const std::string pipe = folder_.Write("x", "") + ".pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_EQ(Calibctl(server_.address(), {"push", "s", "a=" + pipe}).err,
            "calibctl: " + pipe + ": not a regular file\n");
}

}  // namespace
}  // namespace calib::test
