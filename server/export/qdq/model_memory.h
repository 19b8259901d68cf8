#ifndef CALIB_SERVER_EXPORT_QDQ_MODEL_MEMORY_H_
#define CALIB_SERVER_EXPORT_QDQ_MODEL_MEMORY_H_

#include <cstdint>

#include "absl/strings/string_view.h"

namespace calib::server {

// The most bytes that MakeQdqModel holds for a model beside its two serialized forms: the parsed one, its index, and
// the nodes around its weights. Parsed parts take many times what they take in a file: an empty node has 2 bytes there
// and about 200 here. Parses nothing, and takes no memory itself. Bytes may be anything: of a damaged model, what is
// read before the damage counts. Thread-safe.
uint64_t ModelMemory(absl::string_view model);

}  // namespace calib::server

#endif  // CALIB_SERVER_EXPORT_QDQ_MODEL_MEMORY_H_
