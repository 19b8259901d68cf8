#ifndef CALIB_CLIENT_CPP_CHANNEL_H_
#define CALIB_CLIENT_CPP_CHANNEL_H_

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <memory>

#include "absl/time/time.h"
#include "client/cpp/client.h"

namespace calib::client {

// A channel with the arguments that calibd's clients use: dead connections are found within 80 seconds, connecting
// takes at most 5, and no proxy of the environment is used.
std::shared_ptr<grpc::Channel> MakeChannel(const ClientOptions& options);

// Fills in what every call has: the options' metadata and a deadline, which may be infinite.
void PrepareContext(const ClientOptions& options, absl::Time deadline, grpc::ClientContext* context);

}  // namespace calib::client

#endif  // CALIB_CLIENT_CPP_CHANNEL_H_
