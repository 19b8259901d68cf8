#ifndef CALIB_TESTS_SUPPORT_SAMPLE_H_
#define CALIB_TESTS_SUPPORT_SAMPLE_H_

namespace calib::test {

// Sanitizers make a test 10 to 30 times slower.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

// Which of many combinations a loop goes through: all, but in a sanitized build every n-th, where what matters is the
// code that they reach, and not the numbers that come of them. Take an n that shares no factor with the inner loops'
// lengths.
class Sample {
 public:
  explicit Sample(int every) : every_(every) {}
  bool Take() { return !kSanitized || seen_++ % every_ == 0; }

 private:
  const int every_;
  int seen_ = 0;
};

}  // namespace calib::test

#endif  // CALIB_TESTS_SUPPORT_SAMPLE_H_
