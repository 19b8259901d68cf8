// The environment variable CALIB_KERNEL is read once, so each of its values is a run of its own: see CMakeLists.txt.

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "quant/kernels/kernel.h"

namespace calib {
namespace {

TEST(ActiveKernelTest, IsTheOneThatTheEnvironmentNames) {
  const char* const name = std::getenv("CALIB_KERNEL");
  const Kernel* const named = name == nullptr ? nullptr : FindKernel(name);
  ::testing::internal::CaptureStderr();
  const std::string active(ActiveKernel().name);
  const std::string warning = ::testing::internal::GetCapturedStderr();
  if (named != nullptr && named->supported()) {
    EXPECT_EQ(active, name);
    EXPECT_EQ(warning, "");
    return;
  }
  std::string fastest;
  for (const Kernel& kernel : AllKernels()) {
    if (kernel.supported()) fastest = std::string(kernel.name);
  }
  EXPECT_EQ(active, fastest);
  if (name == nullptr) {
    EXPECT_EQ(warning, "");
    return;
  }
  const char* const reason = named == nullptr ? " is unknown; using " : " is not supported by this CPU; using ";
  EXPECT_NE(warning.find(std::string("CALIB_KERNEL=") + name + reason + fastest), std::string::npos) << warning;
}

}  // namespace
}  // namespace calib
