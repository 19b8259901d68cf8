#include "client/cpp/worker_impl.h"

#include <algorithm>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cpp/durability.h"
#include "proto/codec/error.h"
#include "quant/tensor_layout.h"

namespace calib::client {
namespace {

constexpr size_t kMinRawWindowBytes = size_t{1} << 20;
constexpr size_t kMinChunkBytes = size_t{64} << 10;
// Chunks in a full window, so that sending goes on while the oldest become durable.
constexpr size_t kChunksInWindow = 8;

WorkerOptions WithinLimits(WorkerOptions options) {
  options.raw_window_bytes = std::max(options.raw_window_bytes, kMinRawWindowBytes);
  options.updates_in_flight = std::max(options.updates_in_flight, 1);
  options.min_backoff = std::max(options.min_backoff, absl::Milliseconds(1));
  options.max_backoff = std::max(options.max_backoff, options.min_backoff);
  return options;
}

v1::DataType EncodeDataType(DataType type) {
  switch (type) {
    case DataType::kFloat32:
      return v1::DATA_TYPE_FLOAT32;
    case DataType::kFloat16:
      return v1::DATA_TYPE_FLOAT16;
    case DataType::kBfloat16:
      return v1::DATA_TYPE_BFLOAT16;
  }
  return v1::DATA_TYPE_UNSPECIFIED;
}

// Bytes [begin, begin + size) of the tensor's data.
v1::TensorChunk MakeChunk(const TensorView& tensor, size_t begin, size_t size) {
  v1::TensorChunk chunk;
  chunk.set_data_type(EncodeDataType(tensor.type));
  chunk.mutable_shape()->Assign(tensor.shape.begin(), tensor.shape.end());
  chunk.set_offset(tensor.offset + begin / ElementSize(tensor.type));
  chunk.set_data(tensor.data.data() + begin, size);
  return chunk;
}

// The observer whose data is sent; unset for skipped and passive layers, which take none. STEP_REQUIRED when the layer
// takes synchronous steps alone.
absl::StatusOr<std::optional<ObserverConfig>> CollectedAs(const SessionConfig& config, absl::string_view layer) {
  const std::optional<ObserverConfig> observer = config.rules.Match(layer);
  if (!observer.has_value() || observer->kind == ObserverKind::kPassive) return std::optional<ObserverConfig>();
  if (config.synchronous.has_value() && NeedsSteps(observer->kind)) {
    return MakeError(
        v1::ERROR_REASON_STEP_REQUIRED,
        absl::StrCat("layer \"", layer, "\" has an observer of kind ", ObserverKindName(observer->kind),
                     ", which takes synchronous steps alone in this session: contribute to them as a rank"),
        {{"layer", std::string(layer)}});
  }
  return observer;
}

}  // namespace

Worker::Impl::Impl(std::shared_ptr<Client> client, const WorkerOptions& options)
    : client_(std::move(client)), options_(WithinLimits(options)), outbox_(options_.updates_in_flight) {
  stream_thread_ = std::thread([this] { Run(); });
}

Worker::Impl::~Impl() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    if (call_ != nullptr) call_->Cancel();
    WakeWriter();
  }
  stream_thread_.join();
}

absl::Status Worker::Impl::Usable() const {
  if (!fatal_.ok()) return fatal_;
  if (refusing_ || closing_) return absl::FailedPreconditionError("the worker is closed; open another one");
  return absl::OkStatus();
}

absl::Status Worker::Impl::WaitUntilOpen(absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  while (!config_.has_value() && fatal_.ok()) {
    if (absl::Now() < deadline) {
      progress_.WaitWithDeadline(&mutex_, deadline);
    } else if (!last_stream_end_.ok()) {
      return last_stream_end_;
    } else {
      return absl::UnavailableError(
          absl::StrCat("cannot reach calibd at ", client_->options().server, ": no answer in time"));
    }
  }
  return config_.has_value() ? absl::OkStatus() : fatal_;
}

absl::Status Worker::Impl::Observe(absl::string_view layer, const TensorView& tensor) {
  const SessionConfig* config = nullptr;
  std::unique_ptr<TensorObserver> observer;
  {
    absl::MutexLock lock(&mutex_);
    if (absl::Status status = Usable(); !status.ok()) return status;
    config = &*config_;
    if (!idle_observers_.empty()) {
      observer = std::move(idle_observers_.back());
      idle_observers_.pop_back();
    }
  }
  const absl::StatusOr<std::optional<ObserverConfig>> collected = CollectedAs(*config, layer);
  if (!collected.ok()) return collected.status();
  const std::optional<ObserverConfig>& observer_config = *collected;
  if (observer_config.has_value() && DependsOnOrder(observer_config->kind)) {
    return ObserveStep(layer, *observer_config, tensor);
  }
  absl::Status status;
  LayerStatistics statistics(observer_config.value_or(ObserverConfig()));
  if (observer_config.has_value()) {
    if (observer == nullptr) observer = std::make_unique<TensorObserver>();
    status = observer->Observe(tensor, &statistics);
  }

  absl::MutexLock lock(&mutex_);
  if (observer != nullptr) idle_observers_.push_back(std::move(observer));
  if (!status.ok() || !observer_config.has_value()) return status;
  if (status = Usable(); !status.ok()) return status;
  const bool had_round = outbox_.HasRoundWaiting();
  if (status = outbox_.Add(layer, statistics); !status.ok()) return status;
  counts_.values_observed += CountValues(statistics);
  if (!had_round) WakeWriter();
  return absl::OkStatus();
}

absl::Status Worker::Impl::SendRaw(absl::string_view layer, const TensorView& tensor) {
  const SessionConfig* config = nullptr;
  {
    absl::MutexLock lock(&mutex_);
    if (absl::Status status = Usable(); !status.ok()) return status;
    config = &*config_;
  }
  const absl::StatusOr<std::optional<ObserverConfig>> collected = CollectedAs(*config, layer);
  if (!collected.ok()) return collected.status();
  const std::optional<ObserverConfig>& observer = *collected;
  if (!observer.has_value()) return absl::OkStatus();
  if (DependsOnOrder(observer->kind)) return ObserveStep(layer, *observer, tensor);
  const absl::StatusOr<TensorLayout> layout = FindLayout(tensor, observer->channel_axis);
  if (!layout.ok()) return layout.status();

  const size_t chunk_bytes =
      std::clamp(options_.raw_window_bytes / kChunksInWindow, kMinChunkBytes, kMaxTensorChunkBytes) &
      ~(ElementSize(tensor.type) - 1);
  size_t begin = 0;
  // An empty tensor is sent as well: it makes its layer known.
  do {
    const size_t size = std::min(tensor.data.size() - begin, chunk_bytes);
    v1::TensorChunk chunk = MakeChunk(tensor, begin, size);
    begin += size;
    absl::MutexLock lock(&mutex_);
    if (absl::Status status = WaitForRoom(size); !status.ok()) return status;
    absl::Status status = outbox_.AddRaw(layer, *observer, layout->channels, std::move(chunk));
    if (!status.ok()) return status;
    counts_.values_observed += size / ElementSize(tensor.type);
    WakeWriter();
  } while (begin < tensor.data.size());
  return absl::OkStatus();
}

absl::Status Worker::Impl::WaitForRoom(size_t bytes) {
  absl::Time next_request = absl::InfinitePast();
  while (Usable().ok() && outbox_.raw_bytes() > 0 && outbox_.raw_bytes() + bytes > options_.raw_window_bytes) {
    if (outbox_.WaitsForDurability(/*statistics_due=*/false)) {
      AwaitDurability(*client_, options_.session, absl::InfiniteFuture(), &mutex_, &progress_, &next_request);
    } else {
      progress_.Wait(&mutex_);
    }
  }
  return Usable();
}

absl::Status Worker::Impl::ObserveStep(absl::string_view layer, const ObserverConfig& observer,
                                       const TensorView& tensor) {
  absl::MutexLock steps_lock(&steps_mutex_);
  const auto take = [&](const Step& step) {
    absl::MutexLock lock(&mutex_);
    if (absl::Status status = WaitForRoom(step.counts.size() * sizeof(double)); !status.ok()) return status;
    if (absl::Status status = outbox_.AddStep(layer, observer, step); !status.ok()) return status;
    for (const Range& range : step.ranges) counts_.values_observed += range.values();
    WakeWriter();
    return absl::OkStatus();
  };
  return step_reducer_.Reduce(client_.get(), options_.session, layer, observer, tensor, take);
}

absl::Status Worker::Impl::Flush(absl::Time deadline) {
  {
    absl::MutexLock lock(&mutex_);
    if (absl::Status status = Usable(); !status.ok()) return status;
  }
  return FlushTaken(deadline);
}

absl::Status Worker::Impl::FlushTaken(absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  const uint64_t mark = outbox_.Mark();
  ++flushing_;
  const auto done_flushing = absl::MakeCleanup([this] {
    mutex_.AssertHeld();
    --flushing_;
  });
  WakeWriter();
  absl::Time next_request = absl::InfinitePast();
  while (!outbox_.IsDurable(mark)) {
    if (!fatal_.ok()) return fatal_;
    if (absl::Now() >= deadline) {
      return absl::DeadlineExceededError(
          absl::StrCat(outbox_.TotalBytes(), " bytes are not durable yet at calibd at ", client_->options().server,
                       last_stream_end_.ok() ? "" : "; last broken stream: ", last_stream_end_.message()));
    }
    if (outbox_.IsApplied(mark) || outbox_.WaitsForDurability(/*statistics_due=*/true)) {
      AwaitDurability(*client_, options_.session, deadline, &mutex_, &progress_, &next_request);
    } else {
      next_request = absl::InfinitePast();  // what will be applied was in no request yet
      progress_.WaitWithDeadline(&mutex_, deadline);
    }
  }
  return fatal_.ok() ? outbox_.refusal() : fatal_;
}

absl::Status Worker::Impl::Close(absl::Time deadline) {
  {
    absl::MutexLock lock(&mutex_);
    if (closing_) return Usable();
    refusing_ = true;  // so that there is an end to what other threads observe
  }
  const absl::Status flushed = FlushTaken(deadline);
  absl::MutexLock lock(&mutex_);
  if (fatal_.ok() && absl::IsDeadlineExceeded(flushed)) {
    refusing_ = false;
    return flushed;
  }
  closing_ = true;
  if (call_ != nullptr && !welcomed_) call_->Cancel();  // it may wait for a server that is away
  WakeWriter();
  progress_.SignalAll();
  while (!finished_ && absl::Now() < deadline) progress_.WaitWithDeadline(&mutex_, deadline);
  return flushed;
}

const SessionConfig& Worker::Impl::config() const {
  absl::MutexLock lock(&mutex_);
  return *config_;
}

absl::Status Worker::Impl::status() const {
  absl::MutexLock lock(&mutex_);
  return fatal_.ok() ? outbox_.refusal() : fatal_;
}

Worker::Stats Worker::Impl::stats() const {
  absl::MutexLock lock(&mutex_);
  Stats stats = counts_;
  stats.values_ignored += values_ignored_;
  stats.values_refused = outbox_.values_refused();
  stats.applied = outbox_.applied();
  stats.durable = outbox_.durable();
  stats.pending_bytes = outbox_.TotalBytes();
  return stats;
}

}  // namespace calib::client
