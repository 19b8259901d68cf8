#include <algorithm>

#include "quant/methods.h"

namespace calib {

ClipRange MinMaxRange(const Range& range) { return {std::min<double>(range.min, 0), std::max<double>(range.max, 0)}; }

}  // namespace calib
