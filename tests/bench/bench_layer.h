#ifndef CALIB_TESTS_BENCH_BENCH_LAYER_H_
#define CALIB_TESTS_BENCH_BENCH_LAYER_H_

#include <cstddef>
#include <vector>

#include "quant/layer_statistics.h"
#include "quant/searches.h"

namespace calib::bench {

// The layer that every method and search is timed on: 1 Mi values of Student's t with 4 degrees of freedom, a bell with
// a heavy tail. The same on every call and machine with this standard library.
const std::vector<float>& LayerValues();

// Its statistics, as the service observes them.
const LayerStatistics& StatisticsOfLayer();

// Its counts over equal-width bins, from its least value to its greatest.
const EqualWidthHistogram& LayerHistogram();  // PyTorch's and MegEngine's 2048 bins
// The same from -t to t with t its greatest magnitude.
const EqualWidthHistogram& LayerSymmetricHistogram();  // MXNet's 8001 bins

// 1,000 smaller layers of three kinds of data and many magnitudes. Histograms, per tensor.
const std::vector<LayerStatistics>& FleetStatistics();

}  // namespace calib::bench

#endif  // CALIB_TESTS_BENCH_BENCH_LAYER_H_
