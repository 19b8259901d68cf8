#include "tests/store/checkpoints.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tests/support/random_states.h"

namespace calib::server::test {
namespace {

SessionConfig EveryRule(int mantissa_bits) {
  std::vector<ObserverRules::Rule> rules = {{"skip*", std::nullopt, {}}};
  for (const ObserverConfig& observer : calib::test::EveryObserver(mantissa_bits)) {
    ObserverRules::Rule rule{absl::StrCat(rules.size() - 1, ".*"), observer, {}};
    if (observer.learned.has_value()) rule.quant_spec.scheme = observer.learned->spec.scheme;
    rules.push_back(std::move(rule));
  }
  SessionConfig config;
  config.rules = ObserverRules(std::move(rules));
  config.mantissa_bits = mantissa_bits;
  config.synchronous = SynchronousOptions{.world_size = 3,
                                          .straggler_policy = StragglerPolicy::kClosePartial,
                                          .deadline = absl::Milliseconds(1500),
                                          .window = 4};
  return config;
}

float RandomFloat(Rng& rng) {
  constexpr float kEdges[] = {0.0f, -0.0f, 1e-45f, -3.4e38f, INFINITY};
  return rng() % 3 == 0 ? kEdges[rng() % 5]
                        : std::ldexp(static_cast<float>(rng() % 4096), static_cast<int>(rng() % 40) - 20);
}

std::shared_ptr<const FoldedStep> RandomStep(Rng& rng, uint64_t number) {
  FoldedStep step{.step = number, .world_epoch = 1 + rng() % 3};
  for (uint64_t ranks = 1 + rng() % 20; ranks > 0; --ranks) step.ranks.push_back(rng() % 4 != 0);
  for (uint64_t layers = rng() % 4; layers > 0; --layers) {
    FoldedStep::LayerResult& layer = step.layers.emplace_back();
    layer.name = absl::StrCat(layers, ".a");
    for (uint64_t rows = rng() % 4; rows > 0; --rows) {
      layer.rows.push_back({RandomFloat(rng), RandomFloat(rng), RandomFloat(rng), RandomFloat(rng)});
    }
    for (uint64_t params = rng() % 4; params > 0; --params) {
      layer.params.push_back({RandomFloat(rng), static_cast<int64_t>(rng())});
    }
    if (rng() % 2 == 0) continue;
    for (size_t i = 0; i < layer.params.size(); ++i) layer.learned_zero_point.push_back(RandomFloat(rng));
  }
  return std::make_shared<const FoldedStep>(std::move(step));
}

StepsRecord RandomSteps(Rng& rng) {
  StepsRecord steps{.world_epoch = 1 + rng() % 5,
                    .world_size = 3,
                    .folded_step = 100 + rng() % 100,
                    .partial_steps = rng() % 9,
                    .failed_steps = rng() % 9,
                    .late_contributions = rng(),
                    .repeated_contributions = rng() % 9};
  for (uint64_t back = 1 + rng() % 4; back > 0; --back) {
    steps.kept.push_back(RandomStep(rng, steps.folded_step - back + 1));
  }
  return steps;
}

WorkerRecord RandomWorker(Rng& rng, uint32_t ordinal) {
  return {.id = absl::StrCat("worker-", (ordinal * 7) % 10, ordinal),
          .display_name = rng() % 2 == 0 ? "" : "host \xc3\xa9",
          .ordinal = ordinal,
          .incarnation = 1 + rng() % 9,
          .applied = rng(),
          .lost = rng() % 3 == 0 ? rng() : 0};
}

LayerRecord RandomLayer(Rng& rng, const SessionConfig& config, const std::string& name, uint32_t workers) {
  LayerRecord layer{.name = name};
  layer.statistics =
      std::make_shared<const LayerStatistics>(calib::test::RandomState(rng, config.rules.Match(name).value()));
  for (uint32_t worker = 0; worker < workers; ++worker) {
    if (rng() % 2 == 0) layer.workers.push_back(worker);
  }
  return layer;
}

void AppendFloat(float value, std::string* text) { absl::StrAppend(text, absl::StrFormat("%a ", value)); }

void AppendChannel(const ChannelStatistics& channel, std::string* text) {
  const Range& range = channel.range;
  absl::StrAppend(text, "\n    range ");
  AppendFloat(range.min, text);
  AppendFloat(range.max, text);
  absl::StrAppend(text, range.count, " ", range.nan, " ", range.positive_infinity, " ", range.negative_infinity);
  if (channel.histogram.has_value()) {
    absl::StrAppend(text, "\n    histogram ", channel.histogram->mantissa_bits(), " ", channel.histogram->lossless());
    const uint32_t keys = static_cast<uint32_t>(Bfloat16Histogram::kPages) << channel.histogram->mantissa_bits();
    for (uint32_t key = 0; key < keys; ++key) {
      if (const uint64_t count = channel.histogram->count(key); count > 0) absl::StrAppend(text, " ", key, ":", count);
    }
  }
  if (channel.ema.has_value()) {
    absl::StrAppend(text, "\n    ema ");
    AppendFloat(channel.ema->min, text);
    AppendFloat(channel.ema->max, text);
    absl::StrAppend(text, channel.ema->steps);
  }
  if (channel.reference.has_value()) {
    const ReferenceHistogram& reference = *channel.reference;
    absl::StrAppend(text, "\n    reference ", reference.steps(), " ",
                    absl::StrFormat("%a %a %d ", reference.grid().low, reference.grid().high, reference.grid().bins));
    AppendFloat(reference.range().min, text);
    AppendFloat(reference.range().max, text);
    absl::StrAppend(text, reference.range().count, " ", reference.range().nan);
    for (const double count : reference.counts()) absl::StrAppend(text, absl::StrFormat(" %a", count));
  }
  if (channel.passive.has_value()) {
    absl::StrAppend(text, "\n    passive ");
    AppendFloat(channel.passive->scale, text);
    absl::StrAppend(text, channel.passive->zero_point);
  }
  if (channel.learned.has_value()) {
    const LearnedState& learned = *channel.learned;
    absl::StrAppend(text, "\n    learned ", learned.steps, " ");
    for (const float value :
         {learned.scale, learned.zero_point, learned.scale_moments.first, learned.scale_moments.second,
          learned.zero_point_moments.first, learned.zero_point_moments.second}) {
      AppendFloat(value, text);
    }
  }
}

void AppendStep(const FoldedStep& step, std::string* text) {
  absl::StrAppend(text, "  step ", step.step, " epoch ", step.world_epoch, " ranks ");
  for (const bool rank : step.ranks) absl::StrAppend(text, rank ? "1" : "0");
  for (const FoldedStep::LayerResult& layer : step.layers) {
    absl::StrAppend(text, "\n    ", layer.name, " rows ");
    for (const FoldedStep::Row& row : layer.rows) {
      for (const float value : {row.step_min, row.step_max, row.min, row.max}) AppendFloat(value, text);
    }
    absl::StrAppend(text, "params ");
    for (const QParams& params : layer.params) {
      AppendFloat(params.scale, text);
      absl::StrAppend(text, params.zero_point, " ");
    }
    absl::StrAppend(text, "learned ");
    for (const float value : layer.learned_zero_point) AppendFloat(value, text);
  }
  absl::StrAppend(text, "\n");
}

void AppendObserver(const ObserverConfig& observer, std::string* text) {
  absl::StrAppend(text, ObserverKindName(observer.kind), " axis ", observer.channel_axis.value_or(99), " bits ",
                  observer.mantissa_bits, " ema ", static_cast<int>(observer.ema.convention), " ", observer.ema.weight,
                  " reference ", ReferenceRuleName(observer.reference.rule), " ", observer.reference.bins, " ",
                  observer.reference.max_bins);
  if (!observer.learned.has_value()) return;
  const LearnedOptions& learned = *observer.learned;
  absl::StrAppend(text, " learned ", static_cast<int>(learned.optimizer), " ", learned.learning_rate, " ",
                  learned.momentum, " ", learned.beta1, " ", learned.beta2, " ", static_cast<int>(learned.spec.scheme));
}

void AppendSession(const SessionRecord& session, std::string* text) {
  absl::StrAppend(text, "session ", session.name, " uid ", session.uid, " created ",
                  absl::ToUnixNanos(session.create_time), " updated ", absl::ToUnixNanos(session.update_time),
                  " sealed ", session.sealed, " updates ", session.updates_applied, " ignored ", session.values_ignored,
                  " bits ", session.config.mantissa_bits, "\n");
  for (const ObserverRules::Rule& rule : session.config.rules.rules()) {
    absl::StrAppend(text, "  rule ", rule.pattern, " ");
    if (rule.observer.has_value()) AppendObserver(*rule.observer, text);
    absl::StrAppend(text, " scheme ", static_cast<int>(rule.quant_spec.scheme), "\n");
  }
  for (const auto& toggle : session.toggles) {
    absl::StrAppend(text, "  toggle ", toggle.pattern, " ", toggle.enabled, "\n");
  }
  for (const ImportedState& import : session.imports) {
    absl::StrAppend(text, "  import ", import.digest);
    for (const std::string& uid : import.lineage) absl::StrAppend(text, " ", uid);
    absl::StrAppend(text, "\n");
  }
  const StepsRecord& steps = session.steps;
  absl::StrAppend(text, "  steps ", steps.world_epoch, " ", steps.world_size, " ", steps.folded_step, " ",
                  steps.partial_steps, " ", steps.failed_steps, " ", steps.late_contributions, " ",
                  steps.repeated_contributions, "\n");
  for (const auto& step : steps.kept) AppendStep(*step, text);
}

}  // namespace

SessionCheckpoint PlainCheckpoint(const std::string& name) {
  SessionCheckpoint checkpoint;
  checkpoint.session = {
      .name = name,
      .uid = "0123456789abcdef0123456789abcdef",
      .config = {.rules = ObserverRules({{"skip*", std::nullopt, {}}, {"*", ObserverConfig{.mantissa_bits = 5}, {}}}),
                 .mantissa_bits = 5},
      .create_time = absl::FromUnixSeconds(1700000000),
      .updates_applied = 1};
  return checkpoint;
}

SessionCheckpoint RandomCheckpoint(Rng& rng, const std::string& name) {
  SessionCheckpoint checkpoint;
  SessionRecord& session = checkpoint.session;
  session.name = name;
  session.uid = absl::StrFormat("%016x%016x", rng(), rng());
  session.config = EveryRule(4 + static_cast<int>(rng() % 4));
  session.create_time = absl::FromUnixNanos(1700000000123456789 + static_cast<int64_t>(rng() % 1000000));
  session.update_time = session.create_time + absl::Nanoseconds(rng() % 1000000000);
  session.sealed = rng() % 2 == 0;
  session.toggles = {{"1.*", false}, {"*.\xe5\xb1\xa4", true}, {"1.*", true}};
  session.updates_applied = rng();
  session.values_ignored = rng() % 1000;
  session.imports = {{"sha256:0f", {"uid-a", "uid-b"}}, {"sha256:ff", {}}};
  session.steps = RandomSteps(rng);
  const uint32_t workers = 1 + static_cast<uint32_t>(rng() % 12);
  for (uint32_t ordinal = 0; ordinal < workers; ++ordinal) checkpoint.workers.push_back(RandomWorker(rng, ordinal));
  for (size_t rule = 0; rule + 1 < session.config.rules.rules().size(); ++rule) {
    for (const char* const suffix : {".a", ".\xe5\xb1\xa4"}) {
      if (rng() % 8 == 0) continue;
      checkpoint.layers.push_back(RandomLayer(rng, session.config, absl::StrCat(rule, suffix), workers));
    }
  }
  return checkpoint;
}

SessionCheckpoint RandomChange(Rng& rng, SessionCheckpoint* all) {
  SessionCheckpoint change;
  SessionRecord& session = all->session;
  session.updates_applied += 1;
  session.update_time += absl::Nanoseconds(1 + rng() % 1000);
  session.steps = RandomSteps(rng);
  if (rng() % 2 == 0) all->workers.push_back(RandomWorker(rng, static_cast<uint32_t>(all->workers.size())));
  const auto workers = static_cast<uint32_t>(all->workers.size());
  all->workers[rng() % workers].applied += 1;
  change.workers = all->workers;
  for (uint64_t changes = 1 + rng() % 4; changes > 0; --changes) {
    const size_t rule = rng() % (session.config.rules.rules().size() - 1);
    const LayerRecord changed = RandomLayer(
        rng, session.config, absl::StrCat(rule, changes % 2 == 0 ? ".a" : absl::StrCat(".", rng() % 3)), workers);
    for (std::vector<LayerRecord>* layers : {&change.layers, &all->layers}) {
      const auto found = std::find_if(layers->begin(), layers->end(),
                                      [&](const LayerRecord& layer) { return layer.name == changed.name; });
      if (found != layers->end())
        *found = changed;
      else
        layers->push_back(changed);
    }
  }
  change.session = session;
  return change;
}

std::string Describe(const SessionCheckpoint& checkpoint) {
  std::string text;
  AppendSession(checkpoint.session, &text);
  std::vector<std::string> lines;
  for (const WorkerRecord& worker : checkpoint.workers) {
    lines.push_back(absl::StrCat("  worker ", worker.ordinal, " ", worker.id, " \"", worker.display_name,
                                 "\" incarnation ", worker.incarnation, " applied ", worker.applied, " lost ",
                                 worker.lost));
  }
  for (const LayerRecord& layer : checkpoint.layers) {
    std::string& line = lines.emplace_back(absl::StrCat("  layer ", layer.name, " of"));
    for (const uint32_t worker : layer.workers) absl::StrAppend(&line, " ", worker);
    absl::StrAppend(&line, " ");
    AppendObserver(layer.statistics->config(), &line);
    for (const ChannelStatistics& channel : layer.statistics->channels()) AppendChannel(channel, &line);
  }
  std::sort(lines.begin(), lines.end());
  for (const std::string& line : lines) absl::StrAppend(&text, line, "\n");
  return text;
}

std::string Describe(const std::vector<SessionCheckpoint>& checkpoints) {
  std::string text;
  for (const SessionCheckpoint& checkpoint : checkpoints) absl::StrAppend(&text, Describe(checkpoint));
  return text;
}

}  // namespace calib::server::test
