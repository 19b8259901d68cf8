#include "client/cli/session_world.h"

#include <iostream>
#include <memory>

#include "absl/strings/str_cat.h"
#include "client/cli/json_output.h"

namespace calib::cli {
namespace {

constexpr uint32_t kMostWorldRanks = 65536;

// The epoch of the session's world as it is.
absl::StatusOr<uint64_t> CurrentEpoch(const std::string& session, client::Client* client) {
  v1::GetSessionRequest request;
  request.set_session(session);
  request.set_page_size(1);
  const auto response = client->GetSession(request);
  if (!response.ok()) return response.status();
  // Without synchronous steps the call that follows says so.
  return response->session().synchronous().world().epoch();
}

}  // namespace

Run ConfigureSetWorld(CLI::App* command) {
  const auto request = std::make_shared<v1::SetWorldRequest>();
  const auto world_size = std::make_shared<uint32_t>(0);
  const auto expected_epoch = std::make_shared<uint64_t>(0);
  AddSessionArgument(request->mutable_session(), command);
  command
      ->add_option(
          "--world-size", *world_size,
          "Ranks from the lowest open step on. What was given for open steps is dropped and has to be given anew")
      ->required()
      ->check(CLI::Range(uint32_t{1}, kMostWorldRanks))
      ->type_name("N");
  CLI::Option* const expected =
      command
          ->add_option(
              "--expected-epoch", *expected_epoch,
              "Change it only if the world has this epoch still, so that of two changes one is refused; without "
              "it, whatever it has")
          ->type_name("E");
  return [=](const Context& context) -> absl::Status {
    request->set_world_size(*world_size);
    if (expected->count() > 0) {
      request->set_expected_epoch(*expected_epoch);
    } else {
      const absl::StatusOr<uint64_t> epoch = CurrentEpoch(request->session(), &context.client);
      if (!epoch.ok()) return epoch.status();
      request->set_expected_epoch(*epoch);
    }
    const auto response = context.client.SetWorld(*request);
    if (!response.ok()) return response.status();
    if (context.options.json) {
      std::cout << ToLine({{"session", request->session()},
                           {"world_epoch", response->world().epoch()},
                           {"world_size", response->world().size()},
                           {"folded_step", response->folded_step()}})
                << '\n';
    } else {
      std::cout << "the world of session " << request->session() << " has " << response->world().size()
                << (response->world().size() == 1 ? " rank" : " ranks") << " now (epoch " << response->world().epoch()
                << "), from step " << response->folded_step() + 1 << " on\n";
    }
    return absl::OkStatus();
  };
}

}  // namespace calib::cli
