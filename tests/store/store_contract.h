#ifndef CALIB_TESTS_STORE_STORE_CONTRACT_H_
#define CALIB_TESTS_STORE_STORE_CONTRACT_H_

#include <functional>
#include <memory>
#include <string>

#include "gtest/gtest.h"
#include "server/store/store.h"

namespace calib::server::test {

// Somewhere to store: stores opened on it one after the other stand for servers that took over from each other.
class StorePlace {
 public:
  virtual ~StorePlace() = default;
  // A store object on this place, not opened yet.
  virtual std::unique_ptr<Store> NewStore() = 0;
  // Whether one may be opened while another is: that one stays usable, as a fenced one. Else it is UNAVAILABLE until
  // the other is gone.
  virtual bool takes_over() const = 0;
};

struct StoreKind {
  std::string name;
  std::function<std::unique_ptr<StorePlace>()> new_place;
};

// What every store that keeps things must do. Each kind instantiates it:
//   INSTANTIATE_TEST_SUITE_P(Name, StoreContract, ::testing::Values(StoreKind{...}));
class StoreContract : public ::testing::TestWithParam<StoreKind> {
 protected:
  StoreContract() : place_(GetParam().new_place()) {}

  const std::unique_ptr<StorePlace> place_;
};

}  // namespace calib::server::test

#endif  // CALIB_TESTS_STORE_STORE_CONTRACT_H_
