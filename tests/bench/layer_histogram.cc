// Prints the histogram that search_bench.cc searches, for peers.py: {"low": .., "high": .., "counts": [..]}.

#include <iostream>
#include <nlohmann/json.hpp>
#include <vector>

#include "tests/bench/bench_layer.h"

int main() {
  const calib::EqualWidthHistogram& histogram = calib::bench::LayerHistogram();
  const std::vector<double> counts(histogram.counts.begin(), histogram.counts.end());
  std::cout << nlohmann::json{{"low", histogram.low}, {"high", histogram.high}, {"counts", counts}} << "\n";
  return 0;
}
