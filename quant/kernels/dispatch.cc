#include <cstdio>
#include <cstdlib>

#include "quant/kernels/kernel.h"
#include "quant/kernels/kernel_internal.h"

namespace calib {
namespace {

const Kernel& ChooseKernel() {
  const Kernel* fastest = nullptr;
  for (const Kernel& kernel : AllKernels()) {
    if (kernel.supported()) fastest = &kernel;
  }
  const char* const name = std::getenv("CALIB_KERNEL");
  if (name == nullptr || *name == '\0') return *fastest;
  const Kernel* const forced = FindKernel(name);
  if (forced != nullptr && forced->supported()) return *forced;
  std::fprintf(stderr, "CALIB_KERNEL=%s is %s; using %.*s. Known kernels:", name,
               forced == nullptr ? "unknown" : "not supported by this CPU", static_cast<int>(fastest->name.size()),
               fastest->name.data());
  for (const Kernel& kernel : AllKernels()) {
    std::fprintf(stderr, " %.*s", static_cast<int>(kernel.name.size()), kernel.name.data());
  }
  std::fprintf(stderr, "\n");
  return *fastest;
}

}  // namespace

absl::Span<const Kernel> AllKernels() {
  static const Kernel kKernels[] = {
    kernels::kScalarKernel,
#if defined(__x86_64__)
    kernels::kAvx2Kernel,
    kernels::kAvx512Kernel,
#endif
  };
  return kKernels;
}

const Kernel* FindKernel(absl::string_view name) {
  for (const Kernel& kernel : AllKernels()) {
    if (kernel.name == name) return &kernel;
  }
  return nullptr;
}

const Kernel& ActiveKernel() {
  static const Kernel& active = ChooseKernel();
  return active;
}

}  // namespace calib
