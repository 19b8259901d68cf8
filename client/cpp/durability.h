#ifndef CALIB_CLIENT_CPP_DURABILITY_H_
#define CALIB_CLIENT_CPP_DURABILITY_H_

#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "client/cpp/client.h"

namespace calib::client {

// Asks the server to make what it took of the session durable now, without the mutex, and waits for its answer; or,
// before `next_request`, waits until `progress` is signalled. Not beyond the deadline, either way. Only a hint: an Ack
// says what is durable, and whoever waits for it calls again.
//
// `next_request` becomes the time for another request; InfinitePast asks at once.
void AwaitDurability(const Client& client, const std::string& session, absl::Time deadline, absl::Mutex* mutex,
                     absl::CondVar* progress, absl::Time* next_request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

}  // namespace calib::client

#endif  // CALIB_CLIENT_CPP_DURABILITY_H_
