#ifndef CALIB_CLIENT_CPP_DURABILITY_H_
#define CALIB_CLIENT_CPP_DURABILITY_H_

#include <string>

#include "absl/time/time.h"
#include "client/cpp/client.h"

namespace calib::client {

// Between two requests to make data durable.
inline constexpr absl::Duration kDurabilityInterval = absl::Seconds(1);
// What one may take.
inline constexpr absl::Duration kDurabilityTimeout = absl::Seconds(10);

// Asks the server to make what it took of the session durable now, and waits for its answer. Only a hint: an Ack says
// what is durable, and whoever waits for it asks again.
void RequestDurability(const Client& client, const std::string& session, absl::Time deadline);

}  // namespace calib::client

#endif  // CALIB_CLIENT_CPP_DURABILITY_H_
