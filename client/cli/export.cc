#include <unistd.h>

#include <cstdint>
#include <iostream>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cli/command.h"
#include "client/cli/export_options.h"
#include "client/cli/export_summary.h"
#include "client/cli/input_file.h"
#include "client/cli/output_file.h"
#include "client/cli/progress_bar.h"

namespace calib::cli {
namespace {

struct ExportCommand {
  explicit ExportCommand(CLI::App* command) : options(command) {
    command->add_option("-o,--output", path, "Where the file goes; - is standard output")
        ->required()
        ->type_name("FILE");
    command->add_flag("--force", force, "Replace FILE if there is one");
  }

  absl::Status Run(const Context& context) const {
    const absl::StatusOr<v1::ExportOptions> request = options.Request();
    if (!request.ok()) return request.status();
    std::unique_ptr<InputFile> input;
    if (!options.input_path().empty()) {
      absl::StatusOr<std::unique_ptr<InputFile>> opened = InputFile::Open(options.input_path());
      if (!opened.ok()) return opened.status();
      input = *std::move(opened);
      if (input->bytes() == 0) return absl::FailedPreconditionError(absl::StrCat(input->path(), ": is empty"));
    }
    absl::StatusOr<std::unique_ptr<OutputFile>> file = OutputFile::Create(path, force);
    if (!file.ok()) return file.status();
    context.interrupts.OnInterrupt([temporary = (*file)->temporary_path()] {
      if (!temporary.empty()) unlink(temporary.c_str());
      _exit(Interrupts::kExitCode);
    });
    absl::StatusOr<v1::ExportSummary> summary = Fetch(context, *request, input.get(), file->get());
    if (summary.ok()) {
      if (const absl::Status committed = (*file)->Commit(); !committed.ok()) summary = committed;
    }
    context.interrupts.OnInterrupt(nullptr);
    if (!summary.ok()) return summary.status();
    // The file itself may go to standard output.
    if (context.options.json) {
      (path == "-" ? std::cerr : std::cout) << ExportSummaryJson(*request, path, *summary) << '\n';
    } else {
      std::cerr << ExportSummaryText(*request, path, *summary);
    }
    return absl::OkStatus();
  }

  static absl::StatusOr<v1::ExportSummary> Fetch(const Context& context, const v1::ExportOptions& request,
                                                 InputFile* input, OutputFile* file) {
    ProgressBar progress(input == nullptr ? 0 : input->bytes());
    uint64_t moved = 0;
    std::function<absl::StatusOr<std::string>()> next_input;
    if (input != nullptr) {
      next_input = [&]() -> absl::StatusOr<std::string> {
        absl::StatusOr<std::string> bytes = input->Next();
        if (bytes.ok()) progress.Update(moved += bytes->size());
        return bytes;
      };
    }
    return context.client.Export(request, next_input, [&](absl::string_view bytes) {
      if (input == nullptr) progress.Update(moved += bytes.size());
      return file->Write(bytes);
    });
  }

  ExportOptions options;
  std::string path;
  bool force = false;
};

}  // namespace

Run ConfigureExport(CLI::App* command) {
  return [parsed = std::make_shared<ExportCommand>(command)](const Context& context) { return parsed->Run(context); };
}

}  // namespace calib::cli
