#include <algorithm>
#include <iostream>
#include <memory>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/cli/command.h"
#include "client/cli/format.h"
#include "client/cli/json_output.h"
#include "client/cli/progress_bar.h"
#include "client/cli/push_plan.h"
#include "client/cli/push_run.h"
#include "client/cli/push_sync.h"
#include "proto/codec/config_codec.h"

namespace calib::cli {
namespace {

constexpr int kMaxRanks = 256;
constexpr absl::Duration kRedrawInterval = absl::Milliseconds(100);

// The session, once it is known to take data.
absl::StatusOr<v1::Session> OpenSession(const std::string& session, client::Client* client) {
  v1::GetSessionRequest request;
  request.set_session(session);
  request.set_page_size(1);
  const auto response = client->GetSession(request);
  if (!response.ok()) return response.status();
  if (response->session().sealed()) {
    return absl::FailedPreconditionError(
        absl::StrCat("session '", session, "' is sealed: its results are final; create another for more data"));
  }
  return response->session();
}

struct PushCommand {
  explicit PushCommand(CLI::App* command) {
    AddSessionArgument(&session, command);
    command
        ->add_option("LAYER=FILE.npy", arguments,
                     "Layers and their values: row-major float32 or float16. The file's first axis is the steps, what "
                     "follows is the "
                     "tensor of a step; a file with a single axis is one step. A layer may be given more than once.")
        ->required()
        ->type_name("")
        ->check(CLI::Validator(
            [](std::string& argument) {
              const size_t equals = argument.find('=');
              return equals == 0 || equals == std::string::npos ? "'" + argument + "' is not LAYER=FILE.npy"
                                                                : std::string();
            },
            ""));
    ranks_option =
        command
            ->add_option(
                "--ranks", ranks,
                "Workers at once. Each gets a part of every step: its rows along the tensor's first axis, as "
                "numpy.array_split "
                "splits them. Channels, along whichever axis, stay whole. With --sync the default is as many as the "
                "session's world has")
            ->check(CLI::Range(1, kMaxRanks))
            ->capture_default_str()
            ->type_name("N");
    CLI::Option* const raw_option =
        command->add_flag("--raw", raw, "Send the values for the server to reduce, not statistics made here");
    CLI::Option* const shuffle_option =
        command->add_option("--shuffle", shuffle_seed, "Push the steps in an order drawn from this seed")
            ->type_name("SEED");
    CLI::Option* const sync_option =
        command
            ->add_flag(
                "--sync", sync,
                "Push synchronous steps: step i of the files, from 1 on, is the session's step i, to which every "
                "rank contributes its part. Goes on where the session is")
            ->excludes(raw_option)
            ->excludes(shuffle_option);
    command
        ->add_option("--rank", rank,
                     "With --sync: be this rank alone, for one process a rank; without it all ranks, a thread each")
        ->needs(sync_option)
        ->type_name("R");
  }

  // The files whose layers the session takes.
  absl::StatusOr<std::vector<PushSource>> OpenSources(const SessionConfig& config) const {
    std::vector<PushSource> sources;
    for (const std::string& argument : arguments) {
      absl::StatusOr<PushSource> source = OpenPushSource(argument);
      if (!source.ok()) return source.status();
      const std::optional<ObserverConfig> observer = config.rules.Match(source->layer);
      if (!observer.has_value() || observer->kind == ObserverKind::kPassive) {
        std::cerr << "calibctl: session " << session << (observer.has_value() ? " takes no data of passive" : " skips")
                  << " layer " << Printable(source->layer) << ": not pushed\n";
        continue;
      }
      const auto say_kind = [&](absl::string_view what) {
        return absl::InvalidArgumentError(absl::StrCat("layer ", Printable(source->layer), " has an observer of kind ",
                                                       ObserverKindName(observer->kind), ", which takes ", what));
      };
      if (!sync && config.synchronous.has_value() && NeedsSteps(observer->kind)) {
        return say_kind("synchronous steps alone in this session: push it with --sync");
      }
      if (!sync && DependsOnOrder(observer->kind) && ranks > 1) {
        return say_kind("whole steps in order: push it with --ranks 1");
      }
      source->whole_steps = DependsOnOrder(observer->kind);
      sources.push_back(*std::move(source));
    }
    return sources;
  }

  absl::Status RunSynchronously(const Context& context, const v1::Session& open_session,
                                absl::Span<const PushSource> sources) const {
    std::set<std::string> layers;
    for (const PushSource& source : sources) {
      if (layers.insert(source.layer).second) continue;
      return absl::InvalidArgumentError(absl::StrCat("layer ", Printable(source.layer),
                                                     " is given twice: a synchronous step has one tensor of a layer"));
    }
    SyncPush push;
    if (ranks_option->count() > 0) push.ranks = static_cast<uint32_t>(ranks);
    push.rank = rank;
    if (absl::Status status = CheckSyncPush(push, open_session); !status.ok()) return status;
    return PushSynchronously(context, push, open_session, sources);
  }

  absl::Status Run(const Context& context) const {
    const absl::Time start = absl::Now();
    const auto open_session = OpenSession(session, &context.client);
    if (!open_session.ok()) return open_session.status();
    const auto config = DecodeSessionConfig(open_session->config());
    if (!config.ok()) return config.status();
    const absl::StatusOr<std::vector<PushSource>> opened = OpenSources(*config);
    if (!opened.ok()) return opened.status();
    const std::vector<PushSource>& sources = *opened;
    if (sync) return RunSynchronously(context, *open_session, sources);
    std::set<std::string> layers;
    for (const PushSource& source : sources) layers.insert(source.layer);
    const auto steps = PlanSteps(sources, shuffle_seed);
    if (!steps.ok()) return steps.status();

    PushRun run(context.client.options(), {session, ranks, raw, context.options.timeout()}, sources, *steps);
    context.interrupts.OnInterrupt([&run] { run.Stop(); });
    {
      uint64_t total_bytes = 0;
      for (const PushSource& source : sources) total_bytes += source.file.elements() * ElementSize(source.file.type());
      ProgressBar bar(total_bytes);
      while (!run.WaitDone(kRedrawInterval)) bar.Update(run.done_bytes());
    }
    context.interrupts.OnInterrupt(nullptr);
    const absl::Status status = run.status();
    if (!status.ok()) return Annotate(status, absl::StrCat("push to session '", session, "'"));
    const PushRun::Totals totals = run.totals();
    if (context.interrupts.interrupted()) {
      return absl::CancelledError(
          absl::StrCat("interrupted: ", totals.values, " values are pushed and durable, the others are not"));
    }
    Print(context, totals, layers.size(), steps->size(), absl::ToDoubleSeconds(absl::Now() - start));
    return absl::OkStatus();
  }

  void Print(const Context& context, const PushRun::Totals& totals, size_t layers, size_t steps, double seconds) const {
    if (context.options.json) {
      std::cout << ToLine({{"session", session},
                           {"layers", layers},
                           {"steps", steps},
                           {"workers", ranks},
                           {"values", totals.values},
                           {"values_ignored", totals.values_ignored},
                           {"bytes", totals.bytes},
                           {"bytes_sent", totals.bytes_sent},
                           {"reconnections", totals.reconnections},
                           {"seconds", seconds}})
                << '\n';
      return;
    }
    std::cout << absl::StrFormat("pushed %s values (%s) of %d %s with %d %s in %.2f s, %s sent; all durable\n",
                                 FormatCount(totals.values), FormatBytes(static_cast<double>(totals.bytes)), layers,
                                 layers == 1 ? "layer" : "layers", ranks, ranks == 1 ? "worker" : "workers", seconds,
                                 FormatBytes(static_cast<double>(totals.bytes_sent)));
    if (totals.values_ignored > 0) {
      std::cout << FormatCount(totals.values_ignored) << " values of disabled observers were ignored\n";
    }
  }

  std::string session;
  std::vector<std::string> arguments;
  int ranks = 1;
  bool raw = false;
  bool sync = false;
  std::optional<uint32_t> rank;
  std::optional<uint64_t> shuffle_seed;
  CLI::Option* ranks_option;
};

}  // namespace

Run ConfigurePush(CLI::App* command) {
  return [parsed = std::make_shared<PushCommand>(command)](const Context& context) { return parsed->Run(context); };
}

}  // namespace calib::cli
