#include "client/cpp/step_reducer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/codec/error.h"
#include "proto/codec/statistics_codec.h"

namespace calib::client {
namespace {

// The range of the first row.
Range FirstRange(const v1::StatisticsBatch& batch) {
  const auto entry = [](const auto& column) { return column.empty() ? 0 : column[0]; };
  Range range;
  range.count = entry(batch.count());
  if (range.count > 0) {
    range.min = entry(batch.min());
    range.max = entry(batch.max());
  }
  range.nan = entry(batch.nan());
  range.positive_infinity = entry(batch.positive_infinity());
  range.negative_infinity = entry(batch.negative_infinity());
  return range;
}

// What the server has of a layer's reference histogram; an empty one when it does not know the layer.
absl::StatusOr<ReferenceHistogram> FetchState(Client* client, const std::string& session, absl::string_view layer,
                                              const ReferenceOptions& options) {
  v1::GetStatisticsRequest request;
  request.set_session(session);
  // A replica begun with what a restart of the server loses would never fit again.
  v1::FlushRequest flush;
  flush.set_session(session);
  if (const absl::Status status = client->Flush(flush).status(); !status.ok()) return status;
  request.set_pattern(std::string(layer));
  request.set_page_size(1);  // a name with * or ? in it matches others too
  do {
    const absl::StatusOr<v1::GetStatisticsResponse> response = client->GetStatistics(request);
    if (GetReason(response.status()) == v1::ERROR_REASON_LAYER_NOT_FOUND) break;
    if (!response.ok()) return response.status();
    request.set_page_token(response->next_page_token());
    if (response->layer_size() != 1 || response->layer(0) != layer) continue;
    if (response->statistics().reference_histogram_size() != 1) break;
    return DecodeReferenceState(options, FirstRange(response->statistics()),
                                response->statistics().reference_histogram(0));
  } while (!request.page_token().empty());
  return ReferenceHistogram(options);
}

}  // namespace

absl::Status StepReducer::Reduce(Client* client, const std::string& session, absl::string_view layer,
                                 const ObserverConfig& observer, const TensorView& tensor, Taker take) {
  ObserverConfig ranges_alone = observer;
  ranges_alone.kind = ObserverKind::kMinMax;
  LayerStatistics ranges(ranges_alone);
  if (absl::Status status = observer_.Observe(tensor, &ranges); !status.ok()) return status;
  Step step;
  for (const ChannelStatistics& channel : ranges.channels()) step.ranges.push_back(channel.range);
  if (observer.kind != ObserverKind::kReferenceHistogram) return take(step);

  auto replica = replicas_.find(layer);
  if (replica == replicas_.end()) {
    absl::StatusOr<ReferenceHistogram> state = FetchState(client, session, layer, observer.reference);
    if (!state.ok()) return state.status();
    replica = replicas_.emplace(layer, *std::move(state)).first;
  }
  const absl::StatusOr<ReferenceGrid> grid = replica->second.NextGrid(step.ranges.front());
  if (!grid.ok()) {
    return MakeError(GetReason(ErrorOfStep(grid.status())),
                     absl::StrCat("layer \"", layer, "\": ", grid.status().message()), {{"layer", std::string(layer)}});
  }
  step.grid = *grid;
  if (absl::Status status = CountOnGrid(observer.reference.rule, *grid, tensor, &step.counts); !status.ok()) {
    return status;
  }
  if (absl::Status status = take(step); !status.ok()) return status;
  return replica->second.Fold(step.ranges.front(), step.grid, step.counts);
}

}  // namespace calib::client
