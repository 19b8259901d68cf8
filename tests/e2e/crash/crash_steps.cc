// The steps of a worker of the crash tests (workload.h), for workers in other languages: from the first one asked for
// on, for ever, until nobody reads. Of each step a line "LAYER ROWS COLUMNS" and the values, little-endian float32.

#include <CLI/CLI.hpp>
#include <cstdint>
#include <cstdio>

#include "tests/e2e/crash/workload.h"

int main(int argc, char** argv) {
  int worker = 0;
  uint64_t seed = 0, first = 1;
  CLI::App app("The steps of a worker of the crash tests", "crash_steps");
  app.add_option("--worker", worker)->required();
  app.add_option("--seed", seed)->required();
  app.add_option("--first", first)->required();
  CLI11_PARSE(app, argc, argv);
  while (true) {
    const calib::test::WorkStep step = calib::test::StepOf(seed, worker, first++);
    std::printf("%s %llu %llu\n", step.layer.c_str(), static_cast<unsigned long long>(step.shape[0]),
                static_cast<unsigned long long>(step.shape[1]));
    const size_t written = std::fwrite(step.values.data(), sizeof(float), step.values.size(), stdout);
    if (written != step.values.size() || std::fflush(stdout) != 0) return 0;
  }
}
