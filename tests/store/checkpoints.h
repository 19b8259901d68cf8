#ifndef CALIB_TESTS_STORE_CHECKPOINTS_H_
#define CALIB_TESTS_STORE_CHECKPOINTS_H_

#include <string>
#include <vector>

#include "server/store/store.h"
#include "tests/support/random_tensors.h"

namespace calib::server::test {

using calib::test::Rng;

// A session without workers and layers, whose rules observe every layer with a histogram.
SessionCheckpoint PlainCheckpoint(const std::string& name);

// A session with something in every field, and a layer in a random state for every kind of observer ("0.a", "0.b",
// "1.a", ... after the number of its rule). The same seed gives the same session.
SessionCheckpoint RandomCheckpoint(Rng& rng, const std::string& name);
// Changes some of its workers and layers and adds others; returns a commit of just these. `all` becomes what a store
// then holds.
SessionCheckpoint RandomChange(Rng& rng, SessionCheckpoint* all);

// All of it as text, a line a thing, floats bit for bit; workers and layers in any order give the same.
std::string Describe(const SessionCheckpoint& checkpoint);
// Those of all sessions, in this order.
std::string Describe(const std::vector<SessionCheckpoint>& checkpoints);

}  // namespace calib::server::test

#endif  // CALIB_TESTS_STORE_CHECKPOINTS_H_
