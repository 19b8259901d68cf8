// Ranks' step logs against a server that plays by the rules, and a network and processes that do not.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cpp/step_log.h"
#include "proto/codec/error.h"
#include "tests/client/step_model_server.h"
#include "tests/support/random_tensors.h"

namespace calib::client {
namespace {

using test::Rng;
using test::StepModelServer;

constexpr uint32_t kMostRanks = 4;

// What a rank gives for a step in a world: no other contribution is the same.
uint64_t TokenOf(uint32_t rank, uint64_t step, uint64_t epoch) { return step * 1000000 + epoch * 100 + rank + 1; }

// A process of a rank: its log, and what the caller around it would do.
class Rank {
 public:
  Rank(uint32_t rank, bool counts) : rank_(rank), counts_(counts), log_(rank, [](StepTicket&) {}) {
    std::vector<ObserverRules::Rule> rules;
    ObserverConfig reference;
    reference.kind = ObserverKind::kReferenceHistogram;
    rules.push_back({"reference", reference, {}});
    rules.push_back({"*", ObserverConfig{}, {}});
    rules_ = ObserverRules(std::move(rules));
  }

  StepLog& log() { return log_; }
  bool connected = false;
  std::deque<v1::ObserveRequest> to_server;

  // Contributes to the next step, or hears why not.
  void Contribute() {
    const absl::Status news = log_.news(/*any_error=*/true);
    if (!news.ok()) {
      log_.TakeNews();
      return;
    }
    const uint64_t step = log_.next_step();
    if (!log_.IsInWindow(step)) return;
    ASSERT_EQ(log_.Find(step), nullptr);
    const uint64_t token = TokenOf(rank_, step, log_.world().epoch);
    EncodedStep encoded;
    encoded.request = std::make_shared<v1::ObserveRequest>();
    v1::StatisticsBatch* const statistics = encoded.request->mutable_step_contribution()->mutable_statistics();
    auto values = std::make_shared<std::vector<StepValues>>();
    for (const char* const name : {"a", "reference"}) {
      if (name[0] == 'r' && !counts_) continue;
      const auto info = log_.layers().Find(name, rules_);
      ASSERT_TRUE(info.ok());
      statistics->add_layer((*info)->number);
      statistics->add_count(token);
      encoded.layers_used = (*info)->number + 1;
    }
    if (counts_) {
      const auto* const bytes = reinterpret_cast<const uint8_t*>(&token);
      values->push_back({ReferenceRule::kMxnet, DataType::kFloat32, {bytes, bytes + sizeof(token)}});
    }
    encoded.values = values;
    encoded.bytes = 8;
    auto ticket = std::make_shared<StepTicket>();
    log_.Add(step, std::move(encoded), ticket);
    tickets_[step] = ticket;
  }

  void Count() {
    const std::optional<StepLog::CountJob> job = log_.TakeCountJob();
    if (!job.has_value()) return;
    auto request = std::make_shared<v1::ObserveRequest>();
    v1::StepCounts* const counts = request->mutable_step_counts();
    counts->set_step(job->grids->step());
    counts->set_world_epoch(job->grids->world_epoch());
    v1::StepCount* const count = counts->add_count();
    *count->mutable_grid() = job->grids->grid(0);
    uint64_t token;
    std::memcpy(&token, job->values->front().data.data(), sizeof(token));
    count->add_count(token);
    unfinished_.emplace_back(*job, request);
  }
  void FinishCounting() {
    if (unfinished_.empty()) return;
    log_.AddCounts(unfinished_.front().first, unfinished_.front().second);
    unfinished_.pop_front();
  }

  bool Send() {
    const auto message = log_.NextMessage();
    if (message == nullptr) return false;
    to_server.push_back(*message);
    return true;
  }

  void Take(v1::ObserveResponse response) {
    absl::Status status;
    switch (response.kind_case()) {
      case v1::ObserveResponse::kAck:
        status = log_.OnAck(response.ack());
        break;
      case v1::ObserveResponse::kRefusal:
        ASSERT_EQ(log_.OnRefusal(response.refusal(), &status), StepLog::AfterRefusal::kGoOn) << status;
        return;
      case v1::ObserveResponse::kStepGrids:
        status = log_.OnGrids(response.step_grids());
        break;
      case v1::ObserveResponse::kStepResult:
        log_.OnResult(response.mutable_step_result());
        break;
      case v1::ObserveResponse::kWorld:
        log_.OnWorld(response.world());
        break;
      default:
        FAIL() << response.DebugString();
    }
    ASSERT_TRUE(status.ok()) << status;
  }

  // The newest ticket of each step.
  const std::map<uint64_t, std::shared_ptr<StepTicket>>& tickets() const { return tickets_; }

 private:
  const uint32_t rank_;
  const bool counts_;
  ObserverRules rules_;
  StepLog log_;
  std::map<uint64_t, std::shared_ptr<StepTicket>> tickets_;
  std::deque<std::pair<StepLog::CountJob, std::shared_ptr<v1::ObserveRequest>>> unfinished_;
};

class Simulation {
 public:
  Simulation(uint64_t seed, v1::StragglerPolicy policy, bool kill)
      : rng_(seed),
        policy_(policy),
        kill_(kill),
        counts_(Chance(50)),
        window_(static_cast<uint32_t>(1 + Pick(4))),
        server_({static_cast<uint32_t>(1 + Pick(3)), window_, policy}) {
    for (uint32_t rank = 0; rank < kMostRanks; ++rank) StartProcess(rank);
  }

  void Run(int actions) {
    for (int i = 0; i < actions && !testing::Test::HasFailure(); ++i) Act();
    Drain();
    CheckEnd();
  }

 private:
  int Pick(int choices) { return static_cast<int>(rng_() % static_cast<uint64_t>(choices)); }
  bool Chance(int percent) { return Pick(100) < percent; }

  void StartProcess(uint32_t rank) { ranks_[rank] = std::make_unique<Rank>(rank, counts_); }

  void Act() {
    const auto number = static_cast<uint32_t>(Pick(static_cast<int>(server_.world_size())));
    Rank& rank = *ranks_[number];
    const int action = Pick(200);
    if (action < 40) {
      if (rank.log().IsSettled()) rank.Contribute();
    } else if (action < 80) {
      if (rank.connected) {
        rank.Send();
      } else {
        Connect(number);
      }
    } else if (action < 125) {
      ServerTakes(number);
    } else if (action < 170) {
      Deliver(number);
    } else if (action < 180) {
      Chance(50) ? rank.Count() : rank.FinishCounting();
    } else if (action < 185) {
      Cut(number);
    } else if (action < 191) {
      server_.Checkpoint();
    } else if (action < 194) {
      server_.Expire();
    } else if (action < 196) {
      Crash();
    } else if (action < 197) {
      server_.SetWorld(static_cast<uint32_t>(1 + Pick(kMostRanks)));
    } else if (kill_ && action < 199) {
      Cut(number);
      StartProcess(number);
    }
  }

  void Connect(uint32_t number) {
    const std::optional<v1::Welcome> welcome = server_.Open(number);
    if (!welcome.has_value() || Chance(20)) return;  // lost on its way
    const absl::Status status = ranks_[number]->log().OnWelcome(*welcome);
    ASSERT_TRUE(status.ok()) << status;
    ranks_[number]->connected = true;
    // As a worker does before it lets its caller contribute.
    if (!ranks_[number]->log().IsSettled()) server_.Checkpoint();
  }

  void ServerTakes(uint32_t number) {
    Rank& rank = *ranks_[number];
    if (rank.to_server.empty()) return;
    server_.Take(number, rank.to_server.front());
    // A contribution that was taken and comes again changes nothing.
    const std::deque<v1::ObserveResponse>& answers = server_.answers(number);
    const bool refused = !answers.empty() && answers.back().has_refusal();
    if (rank.to_server.front().has_step_contribution() && !refused && Chance(5)) {
      server_.Take(number, rank.to_server.front());
    }
    rank.to_server.pop_front();
    ASSERT_EQ(server_.broken_rule(), "");
  }

  bool Deliver(uint32_t number) {
    if (!ranks_[number]->connected || server_.answers(number).empty()) return false;
    ranks_[number]->Take(server_.answers(number).front());
    server_.answers(number).pop_front();
    return true;
  }

  void Cut(uint32_t number) {
    Rank& rank = *ranks_[number];
    for (int arrive = Pick(4); rank.connected && arrive > 0; --arrive) ServerTakes(number);
    rank.to_server.clear();
    rank.connected = false;
    rank.log().OnStreamEnd();
    server_.Close(number);
  }

  void Crash() {
    for (uint32_t number = 0; number < kMostRanks; ++number) Cut(number);
    server_.Crash();
  }

  // Everything arrives, all ranks of the world go on, until they came two steps further and all is durable.
  void Drain() {
    for (uint32_t number = server_.world_size(); number < kMostRanks; ++number) Cut(number);
    uint64_t goal = server_.folded_step() + window_ + 2;
    for (uint32_t number = 0; number < server_.world_size(); ++number) {
      goal = std::max(goal, ranks_[number]->log().next_step());
    }
    for (int round = 0; round < 500 && server_.folded_step() < goal && !testing::Test::HasFailure(); ++round) {
      // A rank that was too late for a step waits for nobody to close it again after a crash.
      if (round % 20 == 19 && policy_ == v1::STRAGGLER_POLICY_CLOSE_PARTIAL) server_.Expire();
      for (uint32_t number = 0; number < server_.world_size(); ++number) {
        Rank& rank = *ranks_[number];
        while (!rank.connected) Connect(number);
        Settle(number);
        if (rank.log().next_step() <= goal) rank.Contribute();
        Settle(number);
      }
    }
    server_.Checkpoint();
    for (int again = 0; again < 10; ++again) {
      for (uint32_t number = 0; number < server_.world_size(); ++number) Settle(number);
    }
    server_.Checkpoint();
    for (uint32_t number = 0; number < server_.world_size(); ++number) Settle(number);
    ASSERT_GE(server_.folded_step(), goal) << "the ranks got stuck: " << Where();
  }

  std::string Where() {
    std::string where;
    for (uint32_t number = 0; number < server_.world_size(); ++number) {
      StepLog& log = ranks_[number]->log();
      absl::StrAppend(&where, "rank ", number, ": next ", log.next_step(), ", folded ", log.folded(), ", durable ",
                      log.durable(), log.HasOpen() ? ", open" : "", log.HasMessage() ? ", to send" : "", " news ",
                      log.news(true).ToString(), "; ");
    }
    return where;
  }

  void Settle(uint32_t number) {
    Rank& rank = *ranks_[number];
    bool busy = true;
    while (busy && !testing::Test::HasFailure()) {
      busy = Deliver(number);
      rank.Count();
      rank.FinishCounting();
      busy = rank.Send() || busy;
      while (!rank.to_server.empty() && !testing::Test::HasFailure()) {
        ServerTakes(number);
        busy = true;
      }
    }
  }

  void CheckEnd() {
    if (testing::Test::HasFailure()) return;
    for (uint64_t step = 1; step <= server_.folded_step(); ++step) {
      const StepModelServer::Folded& folded = server_.folded(step);
      if (policy_ != v1::STRAGGLER_POLICY_CLOSE_PARTIAL) {
        ASSERT_EQ(folded.tokens.size(), folded.world_size) << "step " << step;
      }
      for (const auto& [rank, token] : folded.tokens) ASSERT_EQ(token, TokenOf(rank, step, folded.epoch));
    }
    for (uint32_t number = 0; number < server_.world_size(); ++number) {
      ASSERT_TRUE(ranks_[number]->log().empty())
          << "rank " << number << ", folded " << ranks_[number]->log().folded() << " durable "
          << ranks_[number]->log().durable() << " next " << ranks_[number]->log().next_step();
      ASSERT_EQ(ranks_[number]->log().kept_bytes(), 0u);
      for (const auto& [step, ticket] : ranks_[number]->tickets()) {
        ASSERT_TRUE(ticket->answered) << "rank " << number << ", step " << step;
        if (!ticket->status.ok()) {
          ASSERT_NE(GetReason(ticket->status), v1::ERROR_REASON_UNSPECIFIED) << ticket->status;
          continue;
        }
        ASSERT_EQ(ticket->result->step(), step);
        if (step > server_.folded_step()) {
          // A crash and a change of the world took it back, and the ranks have not come as far again.
          ASSERT_LT(ticket->result->world_epoch(), server_.epoch());
          continue;
        }
        // A step that is closed without a rank after a crash may have been whole before it.
        if (policy_ == v1::STRAGGLER_POLICY_CLOSE_PARTIAL) continue;
        // The world may have been without this rank when the step was folded.
        if (number >= server_.folded(step).world_size) continue;
        ASSERT_TRUE(ticket->result->counted());
        ASSERT_EQ(server_.folded(step).tokens.count(number), 1u) << "rank " << number << ", step " << step;
      }
    }
  }

  Rng rng_;
  const v1::StragglerPolicy policy_;
  const bool kill_;
  const bool counts_;
  const uint32_t window_;
  StepModelServer server_;
  std::unique_ptr<Rank> ranks_[kMostRanks];
};

class StepLogSimulation : public testing::TestWithParam<v1::StragglerPolicy> {};

TEST_P(StepLogSimulation, EveryStepHasEveryRankOnce) {
  for (uint64_t seed = 0; seed < 1500 && !HasFailure(); ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Simulation(seed, GetParam(), /*kill=*/false).Run(600);
  }
}

TEST_P(StepLogSimulation, ProcessesThatStartAgainGoOnWhereTheServerIs) {
  for (uint64_t seed = 0; seed < 1500 && !HasFailure(); ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Simulation(seed, GetParam(), /*kill=*/true).Run(600);
  }
}

INSTANTIATE_TEST_SUITE_P(Policies, StepLogSimulation,
                         testing::Values(v1::STRAGGLER_POLICY_WAIT, v1::STRAGGLER_POLICY_FAIL,
                                         v1::STRAGGLER_POLICY_CLOSE_PARTIAL));

}  // namespace
}  // namespace calib::client
