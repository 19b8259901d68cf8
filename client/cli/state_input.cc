#include "client/cli/state_input.h"

#include <string>

#include "client/cli/command.h"

namespace calib::cli {

absl::Status CheckState(InputFile* file, StateFileReader* reader) {
  absl::Status status;
  while (status.ok()) {
    const absl::StatusOr<std::string> bytes = file->Next();
    if (!bytes.ok()) return bytes.status();
    if (bytes->empty()) break;
    status = reader->Add(*bytes);
  }
  if (status.ok()) status = reader->Finish();
  if (!status.ok()) return Annotate(status, file->path());
  file->Rewind();
  return absl::OkStatus();
}

}  // namespace calib::cli
