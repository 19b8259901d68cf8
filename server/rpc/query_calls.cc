#include "server/rpc/query_calls.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/codec/config_codec.h"
#include "proto/codec/error.h"
#include "proto/codec/statistics_codec.h"
#include "server/rpc/page.h"
#include "server/rpc/qparams_query.h"

namespace calib::server {
namespace {

constexpr int kMaxComparisons = 64;

absl::Status Abandoned() { return absl::CancelledError("the caller gave up, or its deadline passed"); }

// The session and the names of its layers that match a query.
struct Selection {
  std::shared_ptr<Session> session;
  std::vector<std::string> layers;
};

absl::StatusOr<Selection> SelectLayers(const Engine& engine, const std::string& name, const std::string& pattern) {
  const absl::StatusOr<std::string> glob = LayerPattern(pattern);
  if (!glob.ok()) return glob.status();
  absl::StatusOr<std::shared_ptr<Session>> session = engine.FindSession(name);
  if (!session.ok()) return session.status();
  std::vector<std::string> layers = (*session)->ListLayers(*glob, "", kAllLayers);
  if (layers.empty()) return NoLayerMatches(**session, *glob);
  return Selection{*std::move(session), std::move(layers)};
}

}  // namespace

absl::Status ComputeQParams(const Engine& engine, const v1::ComputeQParamsRequest& request, const QueryLimits& limits,
                            v1::ComputeQParamsResponse* response) {
  const absl::StatusOr<QParamsQuery> query = DecodeQuery(request);
  if (!query.ok()) return query.status();
  const absl::StatusOr<Selection> selection = SelectLayers(engine, request.session(), request.pattern());
  if (!selection.ok()) return selection.status();

  response->set_incomplete(selection->session->IsIncomplete());
  size_t bytes = 0;
  for (const std::string& name : selection->layers) {
    if (limits.abandoned()) return Abandoned();
    const absl::StatusOr<Session::LayerSnapshot> layer = selection->session->GetLayer(name);
    if (!layer.ok()) return layer.status();
    absl::StatusOr<v1::LayerQParams> answer = ComputeLayerQParams(*layer, *query, limits.abandoned);
    if (!answer.ok()) return Abandoned();
    bytes += answer->ByteSizeLong() + kEntryOverhead;
    *response->add_layer() = *std::move(answer);
    if (bytes > limits.max_answer_bytes) return AnswerTooLarge(selection->layers.size(), limits.max_answer_bytes);
  }
  return absl::OkStatus();
}

absl::Status CompareMethods(const Engine& engine, const v1::CompareMethodsRequest& request, const QueryLimits& limits,
                            v1::CompareMethodsResponse* response) {
  if (request.method_size() == 0 || request.spec_size() == 0) {
    return InvalidField(request.method_size() == 0 ? "method" : "spec", "is empty: give at least one");
  }
  const int64_t comparisons = int64_t{request.method_size()} * request.spec_size();
  if (comparisons > kMaxComparisons) {
    return InvalidField(
        "method", absl::StrCat(request.method_size(), " methods x ", request.spec_size(), " specs are ", comparisons,
                               " comparisons a layer, the most is ", kMaxComparisons, ": ask for fewer at a time"));
  }
  std::vector<QParamsQuery> queries;
  for (int s = 0; s < request.spec_size(); ++s) {
    const absl::StatusOr<QuantSpec> spec = RequestedSpec(absl::StrCat("spec[", s, "]"), request.spec(s));
    if (!spec.ok()) return spec.status();
    for (int m = 0; m < request.method_size(); ++m) {
      const absl::StatusOr<MethodSpec> method = RequestedMethod(absl::StrCat("method[", m, "]"), request.method(m));
      if (!method.ok()) return method.status();
      queries.push_back({*method, *spec});
    }
  }
  const absl::StatusOr<Selection> selection = SelectLayers(engine, request.session(), request.pattern());
  if (!selection.ok()) return selection.status();

  size_t bytes = 0;
  for (const std::string& name : selection->layers) {
    const absl::StatusOr<Session::LayerSnapshot> layer = selection->session->GetLayer(name);
    if (!layer.ok()) return layer.status();
    for (const QParamsQuery& query : queries) {
      if (limits.abandoned()) return Abandoned();
      absl::StatusOr<v1::LayerQParams> answer = ComputeLayerQParams(*layer, query, limits.abandoned);
      if (!answer.ok()) return Abandoned();
      bytes += answer->ByteSizeLong() + kEntryOverhead;
      *response->add_layer() = *std::move(answer);
      if (bytes > limits.max_answer_bytes) return AnswerTooLarge(selection->layers.size(), limits.max_answer_bytes);
    }
  }
  return absl::OkStatus();
}

absl::Status GetStatistics(const Engine& engine, const v1::GetStatisticsRequest& request, const QueryLimits& limits,
                           v1::GetStatisticsResponse* response) {
  const absl::StatusOr<Page> page = ParsePage(request.page_size(), request.page_token(), kAllLayers, kAllLayers);
  if (!page.ok()) return page.status();
  const absl::StatusOr<std::string> glob = LayerPattern(request.pattern());
  if (!glob.ok()) return glob.status();
  const absl::StatusOr<std::shared_ptr<Session>> session = engine.FindSession(request.session());
  if (!session.ok()) return session.status();
  const std::vector<std::string> names = (*session)->ListLayers(*glob, page->after, kAllLayers);
  if (names.empty() && page->after.empty()) return NoLayerMatches(**session, *glob);

  StatisticsWriter writer;
  size_t bytes = 0;
  for (const std::string& name : names) {
    if (limits.abandoned()) return Abandoned();
    const absl::StatusOr<Session::LayerSnapshot> layer = (*session)->GetLayer(name);
    if (!layer.ok()) return layer.status();
    // Measured alone first: a batch's columns can't be cut back.
    v1::StatisticsBatch alone;
    writer.Add(0, layer->statistics, &alone);
    v1::ObserverConfig observer = EncodeObserverConfig(layer->statistics.config());
    const size_t layer_bytes =
        alone.ByteSizeLong() + name.size() + kEntryOverhead + observer.ByteSizeLong() + kEntryOverhead;
    if (layer_bytes > limits.max_answer_bytes) {
      return MakeError(
          v1::ERROR_REASON_LIMIT_EXCEEDED,
          absl::StrCat("the statistics of layer \"", name, "\" (", layer->statistics.channels().size(),
                       " channels) take ", layer_bytes, " bytes, an answer may have ", limits.max_answer_bytes,
                       ": raise the server's option --max-message-bytes and the client's receive limit, or "
                       "leave the layer out by pattern"),
          {{"option", "--max-message-bytes"}, {"limit", absl::StrCat(limits.max_answer_bytes)}, {"layer", name}});
    }
    const int listed = response->layer_size();
    if (listed > 0 && (static_cast<size_t>(listed) == page->size || bytes + layer_bytes > kPageBytes)) {
      response->set_next_page_token(NextPageToken(response->layer(listed - 1)));
      break;
    }
    bytes += layer_bytes;
    response->add_layer(name);
    *response->add_observer() = std::move(observer);
    writer.Add(static_cast<uint32_t>(listed), layer->statistics, response->mutable_statistics());
  }
  return absl::OkStatus();
}

}  // namespace calib::server
