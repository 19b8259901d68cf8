#ifndef CALIB_QUANT_HEAP_OPTIONAL_H_
#define CALIB_QUANT_HEAP_OPTIONAL_H_

#include <cstddef>
#include <memory>
#include <utility>

namespace calib {

// std::optional for what few have: without a value it takes no more than a pointer. Copies and comparisons are of
// values.
template <typename T>
class HeapOptional {
 public:
  HeapOptional() = default;
  HeapOptional(T value) : value_(std::make_unique<T>(std::move(value))) {}  // NOLINT(google-explicit-constructor)
  HeapOptional(const HeapOptional& other) : value_(other.has_value() ? std::make_unique<T>(*other) : nullptr) {}
  HeapOptional(HeapOptional&&) = default;
  HeapOptional& operator=(HeapOptional other) {
    value_ = std::move(other.value_);
    return *this;
  }
  ~HeapOptional() = default;

  bool has_value() const { return value_ != nullptr; }
  // REQUIRES: has_value().
  const T& operator*() const { return *value_; }
  T& operator*() { return *value_; }
  const T* operator->() const { return value_.get(); }
  T* operator->() { return value_.get(); }

  // Bytes that this takes beside itself.
  size_t HeapBytes() const { return has_value() ? sizeof(T) : 0; }

  friend bool operator==(const HeapOptional& a, const HeapOptional& b) {
    return a.has_value() && b.has_value() ? *a == *b : a.has_value() == b.has_value();
  }

 private:
  std::unique_ptr<T> value_;
};

}  // namespace calib

#endif  // CALIB_QUANT_HEAP_OPTIONAL_H_
