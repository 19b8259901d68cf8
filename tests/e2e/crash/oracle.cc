#include "tests/e2e/crash/oracle.h"

#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/codec/statistics_codec.h"

namespace calib::test {
namespace {

std::string Summary(const SessionStatistics& layers, const std::string& layer) {
  const auto found = layers.find(layer);
  if (found == layers.end()) return "nothing";
  uint64_t values = 0;
  for (const ChannelStatistics& channel : found->second.channels()) values += channel.range.values();
  return absl::StrCat(values, " values in ", found->second.channels().size(), " channels");
}

absl::Status DecodeInto(const v1::GetStatisticsResponse& response, SessionStatistics* layers) {
  for (const std::string& layer : response.layer()) {
    if (!WorkLayers().contains(layer)) return absl::InternalError(absl::StrCat("unknown layer ", layer));
  }
  StatisticsReader reader;
  const auto kind_of = [&](uint32_t handle) { return WorkLayers().at(response.layer(static_cast<int>(handle))).kind; };
  if (absl::Status status = reader.Decode(response.statistics(), kind_of); !status.ok()) return status;
  for (const LayerView& rows : reader.layers()) {
    const std::string& name = response.layer(static_cast<int>(rows.handle));
    LayerStatistics& statistics = layers->try_emplace(name, WorkLayers().at(name)).first->second;
    if (absl::Status status = CheckMergeRows(rows, statistics); !status.ok()) return status;
    MergeRows(rows, &statistics);
  }
  return absl::OkStatus();
}

bool IsWithin(const ChannelStatistics& part, const ChannelStatistics& whole) {
  const Range &a = part.range, &b = whole.range;
  if (a.count > b.count || a.nan > b.nan || a.positive_infinity > b.positive_infinity ||
      a.negative_infinity > b.negative_infinity || a.min < b.min || a.max > b.max) {
    return false;
  }
  if (!part.histogram.has_value()) return true;
  if (!whole.histogram.has_value() || (whole.histogram->lossless() && !part.histogram->lossless())) return false;
  for (uint32_t key = 0; key < Bfloat16Histogram::kPages << Bfloat16Histogram::kMaxMantissaBits; ++key) {
    if (part.histogram->count(key) > whole.histogram->count(key)) return false;
  }
  return true;
}

// Names the first layer of `part` that is not within `whole`; empty when all are.
std::string NotWithin(const SessionStatistics& part, const SessionStatistics& whole) {
  for (const auto& [layer, statistics] : part) {
    const auto found = whole.find(layer);
    if (found == whole.end() || found->second.channels().size() != statistics.channels().size()) return layer;
    for (size_t channel = 0; channel < statistics.channels().size(); ++channel) {
      if (!IsWithin(statistics.channels()[channel], found->second.channels()[channel])) return layer;
    }
  }
  return "";
}

}  // namespace

absl::StatusOr<ServerState> ReadServerState(client::Client* client, const std::string& session) {
  ServerState state;
  v1::GetSessionRequest get;
  get.set_session(session);
  const auto described = client->GetSession(get);
  if (!described.ok()) return described.status();
  for (const v1::WorkerStatus& worker : described->worker()) {
    state.workers[worker.worker_id()] = {.applied = worker.applied(), .durable = worker.durable()};
  }
  if (described->layer().empty()) return state;
  v1::GetStatisticsRequest request;
  request.set_session(session);
  do {
    const auto page = client->GetStatistics(request);
    if (!page.ok()) return page.status();
    if (absl::Status status = DecodeInto(*page, &state.layers); !status.ok()) return status;
    request.set_page_token(page->next_page_token());
  } while (!request.page_token().empty());
  return state;
}

testing::AssertionResult SameStatistics(const SessionStatistics& expected, const SessionStatistics& actual) {
  if (expected == actual) return testing::AssertionSuccess();
  testing::AssertionResult failure = testing::AssertionFailure();
  std::set<std::string> names;
  for (const SessionStatistics* const statistics : {&expected, &actual}) {
    for (const auto& [layer, unused] : *statistics) names.insert(layer);
  }
  for (const std::string& layer : names) {
    const auto one = expected.find(layer), other = actual.find(layer);
    if (one != expected.end() && other != actual.end() && one->second == other->second) continue;
    failure << "\n  " << layer << ": expected " << Summary(expected, layer) << ", the server has "
            << Summary(actual, layer);
  }
  return failure;
}

testing::AssertionResult Within(const SessionStatistics& least, const SessionStatistics& actual,
                                const SessionStatistics& greatest) {
  if (const std::string layer = NotWithin(least, actual); !layer.empty()) {
    return testing::AssertionFailure() << layer << " lacks what was acknowledged: " << Summary(least, layer)
                                       << " were, the server has " << Summary(actual, layer);
  }
  if (const std::string layer = NotWithin(actual, greatest); !layer.empty()) {
    return testing::AssertionFailure() << layer << " has what nobody observed: " << Summary(greatest, layer)
                                       << " were observed, the server has " << Summary(actual, layer);
  }
  return testing::AssertionSuccess();
}

}  // namespace calib::test
