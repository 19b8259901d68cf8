// Random workers that follow the protocol, over a server that crashes: what arrives equals what was sent, bit for bit.

#include <algorithm>
#include <cstddef>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/engine/engine_fixture.h"
#include "tests/support/random_tensors.h"

namespace calib::server::test {
namespace {

using calib::test::RandomTensor;
using calib::test::Rng;

const std::vector<std::pair<std::string, ObserverConfig>>& Layers() {
  static const auto* const layers = new std::vector<std::pair<std::string, ObserverConfig>>{
      {"h", kHistogramConfig}, {"minmax", kMinMaxConfig}, {"channels", kChannelsConfig}};
  return *layers;
}

// Statistics by layer handle.
using Contribution = std::map<uint32_t, LayerStatistics>;

void MergeInto(const Contribution& from, Contribution* into) {
  for (const auto& [handle, statistics] : from) {
    into->try_emplace(handle, statistics.config()).first->second.Merge(statistics);
  }
}

// A client by the book: keeps what is not durable, and merges what was sent only when a Welcome said it was not
// applied.
class SimulatedWorker {
 public:
  SimulatedWorker(std::string id, Rng* rng) : id_(std::move(id)), rng_(*rng) {}

  const std::string& id() const { return id_; }
  uint64_t observed() const { return units_.size(); }
  uint64_t sent() const { return sent_; }
  bool connected() const { return stream_.stream != nullptr; }
  uint64_t durable() const { return stream_.stream->ack().durable(); }
  uint64_t applied() const { return stream_.stream->ack().applied(); }

  // What its units 1 to `last` add up to.
  Contribution Sum(uint64_t last) const {
    Contribution sum;
    for (uint64_t i = 0; i < last; ++i) MergeInto(units_[i], &sum);
    return sum;
  }

  void ObserveUnit() {
    Segment segment{.first = observed() + 1, .last = observed() + 1};
    const bool raw = rng_() % 4 == 0;
    const uint32_t only = rng_() % Layers().size();
    for (uint32_t handle = 0; handle < Layers().size(); ++handle) {
      if (raw ? handle != only : rng_() % 3 == 0) continue;
      const std::vector<float> values = RandomTensor(rng_, 12);
      const std::vector<uint64_t> shape = {3, 4};
      segment.statistics.emplace(handle, server::test::Observe(Layers()[handle].second, values, shape));
      if (raw) segment.raw = TensorRequest(segment.first, segment.last, handle, values, shape);
    }
    units_.push_back(segment.statistics);
    segments_.push_back(std::move(segment));
  }

  void Connect(TestStream stream) {
    Disconnect();
    stream_ = std::move(stream);
    const v1::Welcome& welcome = stream_.stream->welcome();
    ASSERT_GE(welcome.durable(), trimmed_);
    ASSERT_GE(welcome.applied(), welcome.durable());
    Trim(welcome.durable());
    // Everything above `applied` is known not to be applied: it may become one update.
    size_t kept = 0;
    while (kept < segments_.size() && segments_[kept].last <= welcome.applied()) ++kept;
    if (rng_() % 2 == 0) {
      while (segments_.size() > kept + 1) {
        Segment& into = segments_[kept];
        MergeInto(segments_[kept + 1].statistics, &into.statistics);
        into.last = segments_[kept + 1].last;
        into.raw.reset();
        segments_.erase(segments_.begin() + static_cast<std::ptrdiff_t>(kept) + 1);
      }
    }
    next_ = kept;
  }
  // Without closing: as a network that fails. The server finds out when the worker comes back.
  void Abandon(std::vector<TestStream>* abandoned) {
    if (connected()) abandoned->push_back(std::move(stream_));
    stream_ = {};
  }
  void Disconnect() { stream_ = {}; }

  // Sends the next segment, or one that was sent before once more.
  void Send() {
    if (next_ < segments_.size() && rng_() % 5 != 0) {
      EXPECT_TRUE(stream_.Send(Request(segments_[next_])).ok());
      sent_ = std::max(sent_, segments_[next_].last);
      ++next_;
    } else if (next_ > 0) {
      EXPECT_TRUE(stream_.Send(Request(segments_[rng_() % next_])).ok());
    }
  }
  void TakeAck() { Trim(durable()); }

 private:
  struct Segment {
    uint64_t first;
    uint64_t last;
    Contribution statistics;
    std::optional<v1::ObserveRequest> raw;  // sends it so
  };

  static v1::ObserveRequest Request(const Segment& segment) {
    if (segment.raw.has_value()) return *segment.raw;
    return StatisticsRequest(segment.first, segment.last, {segment.statistics.begin(), segment.statistics.end()});
  }

  void Trim(uint64_t durable) {
    trimmed_ = std::max(trimmed_, durable);
    while (!segments_.empty() && segments_.front().last <= durable) {
      segments_.pop_front();
      if (next_ > 0) --next_;
    }
    ASSERT_TRUE(segments_.empty() || segments_.front().first == trimmed_ + 1);
  }

  const std::string id_;
  Rng& rng_;
  std::vector<Contribution> units_;
  std::deque<Segment> segments_;  // not known to be durable
  size_t next_ = 0;               // of segments_: the first not sent on this stream
  uint64_t sent_ = 0;
  uint64_t trimmed_ = 0;
  TestStream stream_;
};

class CrashTest : public EngineFixture {
 protected:
  // The session holds exactly the units that its workers' `applied` name.
  void ExpectStateIsTheSumOfWhatIsApplied(const std::deque<SimulatedWorker>& workers) {
    const auto session = *engine_->FindSession("s");
    Contribution expected;
    for (const Session::WorkerSummary& worker : session->GetWorkers()) {
      const auto sender = std::find_if(workers.begin(), workers.end(),
                                       [&](const SimulatedWorker& w) { return w.id() == worker.record.id; });
      ASSERT_NE(sender, workers.end());
      ASSERT_LE(worker.durable, worker.record.applied);
      ASSERT_LE(worker.record.applied, sender->sent());
      MergeInto(sender->Sum(worker.record.applied), &expected);
    }
    ASSERT_EQ(session->GetSummary().layer_count, expected.size());
    for (const auto& [handle, statistics] : expected) {
      const auto layer = session->GetLayer(Layers()[handle].first);
      ASSERT_TRUE(layer.ok()) << layer.status();
      ASSERT_TRUE(layer->statistics.channels() == statistics.channels()) << layer->name;
    }
  }
};

TEST_F(CrashTest, NothingIsLostOrCountedTwice) {
  for (uint64_t seed = 1; seed <= 250; ++seed) {
    SCOPED_TRACE(seed);
    Rng rng(seed);
    Start();
    if (engine_->FindSession("s").ok()) {
      ASSERT_TRUE(engine_->DeleteSession("s").ok());
    }
    CreateSession();
    ASSERT_TRUE(engine_->Checkpoint().ok());
    std::deque<SimulatedWorker> workers;
    for (int i = 0; i < 3; ++i) workers.emplace_back(absl::StrCat("worker-", i), &rng);
    std::vector<TestStream> abandoned;

    for (int step = 0; step < 120 && !HasFatalFailure(); ++step) {
      SimulatedWorker& worker = workers[rng() % workers.size()];
      const uint64_t action = rng() % 100;
      if (action < 30) {
        worker.ObserveUnit();
      } else if (action < 75) {
        if (!worker.connected()) worker.Connect(Open(worker.id()));
        worker.Send();
      } else if (action < 80) {
        if (worker.connected()) worker.TakeAck();
      } else if (action < 84) {
        worker.Abandon(&abandoned);
      } else if (action < 86) {
        worker.Disconnect();
      } else if (action < 93) {
        store_.FailCommits(rng() % 4 == 0 ? absl::InternalError("injected") : absl::OkStatus());
        engine_->Checkpoint().IgnoreError();
      } else if (action < 96) {
        abandoned.clear();
        for (SimulatedWorker& each : workers) each.Disconnect();
        Start();
        ExpectStateIsTheSumOfWhatIsApplied(workers);
      } else {
        ExpectStateIsTheSumOfWhatIsApplied(workers);
      }
    }

    store_.FailCommits(absl::OkStatus());
    for (SimulatedWorker& worker : workers) {
      worker.Connect(Open(worker.id()));
      while (worker.applied() < worker.observed() && !HasFailure()) worker.Send();
    }
    ASSERT_TRUE(engine_->Checkpoint().ok());
    for (SimulatedWorker& worker : workers) ASSERT_EQ(worker.durable(), worker.observed());
    ExpectStateIsTheSumOfWhatIsApplied(workers);
    abandoned.clear();
    workers.clear();
    ASSERT_FALSE(HasFailure());
  }
}

}  // namespace
}  // namespace calib::server::test
