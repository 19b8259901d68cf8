#ifndef CALIB_SERVER_EXPORT_AMPLITUDE_H_
#define CALIB_SERVER_EXPORT_AMPLITUDE_H_

#include "calib/v1/quantization.pb.h"

namespace calib::server {

// The magnitude that is code 127 of a symmetric int8 layer, for readers that divide it by 127 themselves: in float32
// they get the layer's scale back, but for the last bit where the preset has another divisor. Infinite beyond float32.
// REQUIRES: CheckSymmetricInt8.
float AmplitudeOf(const v1::LayerQParams& qparams);

// What a value of this channel is multiplied by to give its code: qmax / magnitude, the inverse of the scale. Infinite
// beyond float32. REQUIRES: the zero point is 0.
float MultiplierOf(const v1::LayerQParams& qparams, int channel);

}  // namespace calib::server

#endif  // CALIB_SERVER_EXPORT_AMPLITUDE_H_
