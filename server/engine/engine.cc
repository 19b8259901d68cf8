#include "server/engine/engine.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "proto/codec/error.h"
#include "server/base/kill_point.h"
#include "server/base/uid.h"
#include "server/engine/checkpointer.h"
#include "server/engine/step_timer.h"
#include "server/engine/validate.h"

namespace calib::server {
namespace {

absl::Status DrainingError() {
  return MakeError(v1::ERROR_REASON_SERVER_DRAINING,
                   "the server is shutting down; reconnect with backoff, to this or another address");
}

absl::Status NotFoundError(const std::string& name) {
  return MakeError(v1::ERROR_REASON_SESSION_NOT_FOUND,
                   absl::StrCat("there is no session ", Quoted(name), "; create it, or correct the name"),
                   {{"session", name}});
}

absl::Status StoreError(const std::string& session, absl::string_view what, const absl::Status& status) {
  return MakeError(v1::ERROR_REASON_STORE_FAILED,
                   absl::StrCat("session ", Quoted(session), " could not be ", what, ": ", status.message()),
                   {{"session", session}});
}

// Memory of the layers that are committed together: one synced write for many small sessions, and for large ones no
// write that keeps the others waiting for long.
constexpr uint64_t kCommitBytes = 256 << 20;
// Between two looks at which sessions are to expire.
constexpr absl::Duration kExpiryInterval = absl::Minutes(1);
// At a time: each is a synced write, and checkpoints wait.
constexpr int kMostExpired = 100;

}  // namespace

Engine::Engine(const EngineOptions& options, std::unique_ptr<Store> store)
    : options_(options), store_(std::move(store)) {}

Engine::~Engine() = default;

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(const EngineOptions& options, std::unique_ptr<Store> store) {
  std::unique_ptr<Engine> engine(new Engine(options, std::move(store)));
  absl::StatusOr<uint64_t> epoch = engine->store_->Open();
  if (!epoch.ok()) return epoch.status();
  engine->server_epoch_ = *epoch;
  absl::StatusOr<std::vector<SessionCheckpoint>> sessions = engine->store_->Load();
  if (!sessions.ok()) return sessions.status();
  {
    MutexLock lock(&engine->mutex_);
    for (SessionCheckpoint& session : *sessions) engine->AddSession(std::move(session), Session::Origin::kLoaded);
    engine->next_expiry_ = options.clock->Elapsed() + std::min(options.session_expiry, absl::Hours(1));
  }
  engine->checkpointer_ =
      std::make_unique<Checkpointer>(options.checkpoint_interval, [raw = engine.get()] { raw->RunCheckpoint(); });
  engine->step_timer_ =
      std::make_unique<StepTimer>(options.clock, [raw = engine.get()](const std::shared_ptr<Session>& session) {
        raw->NoteStep(session, session->ExpireSteps(raw->options_.clock->Elapsed()));
      });
  return engine;
}

void Engine::AddSession(SessionCheckpoint checkpoint, Session::Origin origin) {
  std::string name = checkpoint.session.name;
  sessions_.emplace(std::move(name),
                    std::make_shared<Session>(std::move(checkpoint), origin, options_.limits, &counters_));
  counters_.sessions += 1;
}

absl::StatusOr<Engine::CreateResult> Engine::CreateSession(const std::string& name, const SessionConfig& config) {
  if (absl::Status status = ValidateSessionName(name); !status.ok()) return status;
  MutexLock lock(&mutex_);
  if (const auto found = sessions_.find(name); found != sessions_.end()) {
    if (found->second->config() == config) return CreateResult{found->second, false};
    return MakeError(v1::ERROR_REASON_SESSION_CONFIG_MISMATCH,
                     absl::StrCat("session ", Quoted(name),
                                  " exists with another config; choose another name, or pass the same config"),
                     {{"session", name}});
  }
  if (draining_) return DrainingError();
  if (sessions_.size() >= options_.limits.max_sessions) {
    return LimitExceeded(absl::StrCat("the server would have ", sessions_.size() + 1, " sessions"), "--max-sessions",
                         options_.limits.max_sessions);
  }
  SessionCheckpoint checkpoint;
  checkpoint.session = {.name = name, .uid = RandomUid(), .config = config, .create_time = options_.clock->Now()};
  checkpoint.session.update_time = checkpoint.session.create_time;
  AddSession(std::move(checkpoint), Session::Origin::kNew);
  return CreateResult{sessions_.at(name), true};
}

absl::StatusOr<std::shared_ptr<Session>> Engine::FindSession(const std::string& name) const {
  MutexLock lock(&mutex_);
  const auto found = sessions_.find(name);
  if (found == sessions_.end()) return NotFoundError(name);
  return found->second;
}

std::vector<std::shared_ptr<Session>> Engine::ListSessions(const std::string& after, size_t limit) const {
  MutexLock lock(&mutex_);
  std::vector<std::shared_ptr<Session>> sessions;
  for (auto it = sessions_.upper_bound(after); it != sessions_.end() && sessions.size() < limit; ++it) {
    sessions.push_back(it->second);
  }
  return sessions;
}

absl::Status Engine::DeleteSession(const std::string& name) {
  return DeleteIf(name, [](const Session&) { return true; }).status();
}

absl::StatusOr<bool> Engine::DeleteIf(const std::string& name, const std::function<bool(const Session&)>& still) {
  std::shared_ptr<Session> session;
  Notices notices;
  {
    MutexLock store_lock(&store_mutex_);
    absl::StatusOr<std::shared_ptr<Session>> found = FindSession(name);
    if (!found.ok()) return found.status();
    session = *std::move(found);
    if (!still(*session)) return false;
    ReachKillPoint(kill_points::kDeleteBegin);
    if (absl::Status status = store_->Delete(server_epoch_, name); !status.ok()) {
      session->MarkNothingDurable();
      return StoreError(name, "deleted", status);
    }
    ReachKillPoint(kill_points::kDeleteEnd);
    {
      MutexLock lock(&mutex_);
      sessions_.erase(name);
      counters_.sessions -= 1;
    }
    notices = session->MarkDeleted();
  }
  notices.Deliver();
  return true;
}

absl::Status Engine::ExpireSessions() {
  if (options_.session_expiry == absl::InfiniteDuration()) return absl::OkStatus();
  const absl::Time oldest = options_.clock->Now() - options_.session_expiry;
  const auto is_due = [oldest](const Session& session) { return session.IsIdleSince(oldest); };
  int expired = 0;
  for (const std::shared_ptr<Session>& session : ListSessions("", std::numeric_limits<size_t>::max())) {
    if (!is_due(*session)) continue;
    const absl::StatusOr<bool> deleted = DeleteIf(session->name(), is_due);
    if (GetReason(deleted.status()) == v1::ERROR_REASON_SESSION_NOT_FOUND) continue;  // somebody was faster
    if (!deleted.ok()) return deleted.status();
    if (!*deleted) continue;
    counters_.sessions_expired += 1;
    if (++expired == kMostExpired) break;
  }
  return absl::OkStatus();
}

void Engine::WhenDurable(const std::shared_ptr<Session>& session, Session::DurableCallback done) {
  session->WhenDurable(std::move(done));
  checkpointer_->Request();
}

void Engine::BeginDrain() {
  std::vector<std::shared_ptr<StreamListener>> listeners;
  {
    MutexLock lock(&mutex_);
    if (draining_.exchange(true)) return;
    for (const auto& [stream, listener] : streams_) listeners.push_back(listener);
  }
  for (const std::shared_ptr<StreamListener>& listener : listeners) listener->OnDrain();
}

absl::Status Engine::Checkpoint() {
  const std::vector<std::shared_ptr<Session>> sessions = ListSessions("", std::numeric_limits<size_t>::max());
  absl::Status first_error;
  for (size_t next = 0; next < sessions.size();) first_error.Update(CheckpointSome(sessions, &next));
  const StoreUsage usage = store_->GetUsage();
  counters_.store_bytes = usage.bytes;
  counters_.store_free_bytes = usage.free_bytes;
  MutexLock lock(&mutex_);
  store_status_ = first_error;
  return first_error;
}

absl::Status Engine::CheckpointSome(absl::Span<const std::shared_ptr<Session>> sessions, size_t* next) {
  Notices notices;
  absl::Status status;
  {
    MutexLock lock(&store_mutex_);
    ReachKillPoint(kill_points::kCheckpointBegin);
    std::vector<std::pair<Session*, uint64_t>> versions;
    std::vector<SessionCheckpoint> checkpoints;
    for (uint64_t bytes = 0; *next < sessions.size() && bytes < kCommitBytes; ++*next) {
      Session* const session = sessions[*next].get();
      std::optional<Session::Cut> cut = session->TakeCut(options_.clock->Now());
      if (!cut.has_value()) continue;
      bytes += cut->bytes;
      versions.emplace_back(session, cut->version);
      checkpoints.push_back(std::move(cut->checkpoint));
    }
    if (versions.empty()) return absl::OkStatus();
    ReachKillPoint(kill_points::kCheckpointCut);
    const absl::Time begin = absl::Now();
    status = store_->Commit(server_epoch_, std::move(checkpoints));
    counters_.checkpoint_micros += absl::ToInt64Microseconds(absl::Now() - begin);
    if (status.ok()) {
      ReachKillPoint(kill_points::kCheckpointCommitted);
      counters_.checkpoints += versions.size();
      for (const auto& [session, version] : versions) notices.Append(session->MarkDurable(version));
    } else {
      counters_.checkpoint_failures += versions.size();
      for (const auto& [session, version] : versions) {
        const absl::Status error = StoreError(session->name(), "stored", status);
        notices.Append(session->MarkFailed(error));
      }
      status = StoreError(versions.front().first->name(), "stored", status);
    }
  }
  notices.Deliver();
  ReachKillPoint(kill_points::kCheckpointEnd);
  return status;
}

void Engine::RunCheckpoint() {
  Checkpoint().IgnoreError();  // store_status() has it
  {
    const absl::Duration now = options_.clock->Elapsed();
    MutexLock lock(&mutex_);
    if (now < next_expiry_) return;
    next_expiry_ = now + kExpiryInterval;
  }
  ExpireSessions().IgnoreError();  // tried again
}

absl::Status Engine::store_status() const {
  MutexLock lock(&mutex_);
  return store_status_;
}

absl::StatusOr<uint64_t> Engine::AddStream(std::shared_ptr<StreamListener> listener) {
  MutexLock lock(&mutex_);
  if (draining_) return DrainingError();
  if (streams_.size() >= options_.limits.max_streams) {
    return LimitExceeded(absl::StrCat("the server would have ", streams_.size() + 1, " open streams"), "--max-streams",
                         options_.limits.max_streams);
  }
  const uint64_t stream = next_stream_++;
  streams_.emplace(stream, std::move(listener));
  counters_.streams += 1;
  return stream;
}

void Engine::RemoveStream(uint64_t stream) {
  std::shared_ptr<StreamListener> listener;  // may be freed by this, without the lock
  MutexLock lock(&mutex_);
  const auto found = streams_.find(stream);
  if (found == streams_.end()) return;
  listener = std::move(found->second);
  streams_.erase(found);
  counters_.streams -= 1;
}

void Engine::NoteIngested(uint64_t bytes_since_cut) {
  if (bytes_since_cut >= options_.checkpoint_bytes) checkpointer_->Suggest();
}

void Engine::NoteStep(const std::shared_ptr<Session>& session, Session::StepOutcome outcome) {
  outcome.notices.Deliver();
  if (outcome.deadline.has_value()) step_timer_->Set(session, *outcome.deadline);
  NoteIngested(outcome.bytes_since_cut);
}

}  // namespace calib::server
