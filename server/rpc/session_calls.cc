#include "server/rpc/session_calls.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/codec/config_codec.h"
#include "proto/codec/error.h"
#include "server/rpc/page.h"
#include "server/rpc/session_messages.h"

namespace calib::server {

void CreateSession(Engine* engine, const v1::CreateSessionRequest& request, v1::CreateSessionResponse* response,
                   Done done) {
  const absl::StatusOr<SessionConfig> config = DecodeSessionConfig(request.config());
  if (!config.ok()) return done(config.status());
  const absl::StatusOr<Engine::CreateResult> made = engine->CreateSession(request.session(), *config);
  if (!made.ok()) return done(made.status());
  engine->WhenDurable(
      made->session, [engine, made = *made, response, done = std::move(done)](absl::StatusOr<uint64_t> durable) {
        if (durable.ok()) {
          FillSession(made.session->GetSummary(), engine->options().clock->Elapsed(), response->mutable_session());
          response->set_created(made.created);
        }
        done(durable.status());
      });
}

absl::Status GetSession(Engine* engine, const v1::GetSessionRequest& request, v1::GetSessionResponse* response) {
  const absl::StatusOr<Page> page = ParsePage(request.page_size(), request.page_token(), 1000, 1000);
  if (!page.ok()) return page.status();
  const absl::StatusOr<std::shared_ptr<Session>> session = engine->FindSession(request.session());
  if (!session.ok()) return session.status();
  FillSession((*session)->GetSummary(), engine->options().clock->Elapsed(), response->mutable_session());
  if (page->after.empty()) FillWorkers(**session, response->mutable_worker());

  std::vector<std::string> names = (*session)->ListLayers("*", page->after, page->size + 1);
  if (names.size() > page->size) {
    names.pop_back();
    response->set_next_page_token(NextPageToken(names.back()));
  }
  for (const std::string& name : names) {
    const absl::StatusOr<Session::LayerSnapshot> layer = (*session)->GetLayer(name);
    if (!layer.ok()) return layer.status();
    FillLayerSummary(*layer, response->add_layer());
  }
  return absl::OkStatus();
}

absl::Status ListSessions(Engine* engine, const v1::ListSessionsRequest& request, v1::ListSessionsResponse* response) {
  const absl::StatusOr<Page> page = ParsePage(request.page_size(), request.page_token(), 100, 1000);
  if (!page.ok()) return page.status();
  size_t bytes = 0;
  for (const std::shared_ptr<Session>& session : engine->ListSessions(page->after, page->size + 1)) {
    v1::Session message;
    FillSession(session->GetSummary(), engine->options().clock->Elapsed(), &message);
    bytes += message.ByteSizeLong();
    const int listed = response->session_size();
    if (listed > 0 && (static_cast<size_t>(listed) == page->size || bytes > kPageBytes)) {
      response->set_next_page_token(NextPageToken(response->session(listed - 1).name()));
      break;
    }
    *response->add_session() = std::move(message);
  }
  return absl::OkStatus();
}

void SealSession(Engine* engine, const v1::SealSessionRequest& request, v1::SealSessionResponse* response, Done done) {
  const absl::StatusOr<std::shared_ptr<Session>> session = engine->FindSession(request.session());
  if (!session.ok()) return done(session.status());
  Notices notices;
  const absl::Status sealed = (*session)->Seal(&notices);
  notices.Deliver();
  if (!sealed.ok()) return done(sealed);
  engine->WhenDurable(
      *session, [engine, session = *session, response, done = std::move(done)](absl::StatusOr<uint64_t> durable) {
        if (durable.ok()) {
          FillSession(session->GetSummary(), engine->options().clock->Elapsed(), response->mutable_session());
        }
        done(durable.status());
      });
}

absl::Status DeleteSession(Engine* engine, const v1::DeleteSessionRequest& request) {
  return engine->DeleteSession(request.session());
}

void SetObserversEnabled(Engine* engine, const v1::SetObserversEnabledRequest& request,
                         v1::SetObserversEnabledResponse* response, Done done) {
  const absl::StatusOr<std::shared_ptr<Session>> session = engine->FindSession(request.session());
  if (!session.ok()) return done(session.status());
  const absl::StatusOr<uint64_t> layers = (*session)->SetEnabled(request.pattern(), request.enabled());
  if (!layers.ok()) return done(layers.status());
  response->set_layers(*layers);
  engine->WhenDurable(*session,
                      [done = std::move(done)](const absl::StatusOr<uint64_t>& durable) { done(durable.status()); });
}

void SetQParams(Engine* engine, const v1::SetQParamsRequest& request, Done done) {
  const absl::StatusOr<std::shared_ptr<Session>> session = engine->FindSession(request.session());
  if (!session.ok()) return done(session.status());
  if (!request.zero_point().empty() && request.zero_point_size() != request.scale_size()) {
    return done(InvalidField("zero_point", absl::StrCat("has ", request.zero_point_size(), " entries for ",
                                                        request.scale_size(), " scales; give one each, or none")));
  }
  std::vector<QParams> params;
  for (int i = 0; i < request.scale_size(); ++i) {
    params.push_back({request.scale(i), request.zero_point().empty() ? 0 : request.zero_point(i)});
  }
  if (const absl::Status status = (*session)->SetQParams(request.layer(), params); !status.ok()) return done(status);
  engine->WhenDurable(*session,
                      [done = std::move(done)](const absl::StatusOr<uint64_t>& durable) { done(durable.status()); });
}

void SetWorld(Engine* engine, const v1::SetWorldRequest& request, v1::SetWorldResponse* response, Done done) {
  const absl::StatusOr<std::shared_ptr<Session>> session = engine->FindSession(request.session());
  if (!session.ok()) return done(session.status());
  if (request.world_size() < 1 || request.world_size() > kMaxWorldSize) {
    return done(InvalidField("world_size",
                             absl::StrCat(request.world_size(), " is no number of ranks; use 1 to ", kMaxWorldSize)));
  }
  absl::StatusOr<Session::WorldChange> change = (*session)->SetWorld(request.expected_epoch(), request.world_size());
  if (!change.ok()) return done(change.status());
  change->notices.Deliver();
  response->mutable_world()->set_epoch(change->world_epoch);
  response->mutable_world()->set_size(request.world_size());
  response->set_folded_step(change->folded_step);
  engine->WhenDurable(*session,
                      [done = std::move(done)](const absl::StatusOr<uint64_t>& durable) { done(durable.status()); });
}

void Flush(Engine* engine, const v1::FlushRequest& request, v1::FlushResponse* response, Done done) {
  const absl::StatusOr<std::shared_ptr<Session>> session = engine->FindSession(request.session());
  if (!session.ok()) return done(session.status());
  engine->WhenDurable(*session, [response, done = std::move(done)](absl::StatusOr<uint64_t> durable) {
    if (durable.ok()) response->set_updates(*durable);
    done(durable.status());
  });
}

}  // namespace calib::server
