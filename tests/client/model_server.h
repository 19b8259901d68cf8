#ifndef CALIB_TESTS_CLIENT_MODEL_SERVER_H_
#define CALIB_TESTS_CLIENT_MODEL_SERVER_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "calib/v1/observe.pb.h"
#include "proto/codec/statistics_codec.h"
#include "quant/layer_statistics.h"
#include "quant/observe.h"

namespace calib::test {

// The server's side of one worker's Observe stream as calib/v1/observe.proto has it, as plainly as can be: one session,
// one worker, no transport, and a store that is a copy. It can crash.
class ModelServer {
 public:
  // Layers whose name begins with "refused" are refused, which the refusal names if `name_refused_layers`; those that
  // begin with "range" have a minmax observer, with "channels" a histogram of each channel along axis 0, others a
  // histogram.
  explicit ModelServer(bool name_refused_layers = true) : name_refused_layers_(name_refused_layers) {}
  static ObserverConfig ObserverOf(absl::string_view layer);

  // A new stream; the older one is fenced.
  v1::Welcome Open();
  // Takes the next message of the newest stream.
  v1::ObserveResponse Take(const v1::ObserveRequest& request);

  // What is applied becomes durable.
  void Checkpoint() { durable_ = applied_; }
  // Starts again from what is durable.
  void Crash();
  v1::Ack MakeAck() const;

  uint64_t applied() const { return applied_.unit; }
  uint64_t durable() const { return durable_.unit; }
  const std::map<std::string, LayerStatistics>& layers() const { return applied_.layers; }
  // Values in all layers.
  uint64_t Values() const;

 private:
  struct State {
    uint64_t unit = 0;
    std::map<std::string, LayerStatistics> layers;
  };

  absl::Status Apply(const v1::Update& update);
  absl::Status ApplyTensor(const v1::TensorChunk& chunk);
  // Makes the layer if need be, empty.
  absl::StatusOr<LayerStatistics*> FindLayer(uint32_t handle);

  const bool name_refused_layers_;
  State applied_;
  State durable_;
  uint64_t epoch_ = 1;
  uint64_t incarnation_ = 0;
  std::vector<std::string> names_;  // by handle, of the newest stream
  StatisticsReader reader_;
  TensorObserver observer_;
};

}  // namespace calib::test

#endif  // CALIB_TESTS_CLIENT_MODEL_SERVER_H_
