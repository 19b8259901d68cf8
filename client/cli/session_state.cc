#include "client/cli/session_state.h"

#include <unistd.h>

#include <iostream>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cli/format.h"
#include "client/cli/json_output.h"
#include "client/cli/output_file.h"
#include "client/cli/progress_bar.h"
#include "client/cli/state_input.h"
#include "proto/codec/error.h"

namespace calib::cli {
namespace {

// A reader that keeps the header and lets the layers go.
std::unique_ptr<StateFileReader> HeaderReader(v1::StateHeader* header) {
  return std::make_unique<StateFileReader>(StateFileReader::Callbacks{
      .on_header =
          [header](const v1::StateHeader& found, const SessionConfig&) {
            *header = found;
            return absl::OkStatus();
          },
      .on_layer = [](const std::string&, const LayerStatistics&) { return absl::OkStatus(); }});
}

struct ExportCommand {
  explicit ExportCommand(CLI::App* command) {
    AddSessionArgument(&session, command);
    command->add_option("FILE", path, "Where the state goes; - is standard output")->required()->type_name("");
    command->add_flag("--force", force, "Replace FILE if there is one");
  }

  absl::Status Run(const Context& context) const {
    v1::FlushRequest flush;
    flush.set_session(session);
    const auto flushed = context.client.Flush(flush);
    if (!flushed.ok()) return flushed.status();
    absl::StatusOr<std::unique_ptr<OutputFile>> created = OutputFile::Create(path, force);
    if (!created.ok()) return created.status();
    OutputFile& file = **created;
    context.interrupts.OnInterrupt([temporary = file.temporary_path()] {
      if (!temporary.empty()) unlink(temporary.c_str());
      _exit(Interrupts::kExitCode);
    });
    v1::StateHeader header;
    const std::unique_ptr<StateFileReader> reader = HeaderReader(&header);
    absl::Status status = Fetch(context, reader.get(), &file);
    if (status.ok()) status = file.Commit();
    context.interrupts.OnInterrupt(nullptr);
    if (!status.ok()) return status;
    if (path == "-") return absl::OkStatus();
    if (context.options.json) {
      std::cout << ToLine({{"session", session},
                           {"file", path},
                           {"uid", header.uid()},
                           {"digest", reader->digest()},
                           {"bytes", reader->file_bytes()},
                           {"layers", reader->layers()},
                           {"values", reader->values()}})
                << '\n';
    } else {
      std::cout << "session " << session << ": " << reader->layers() << " layers, " << FormatCount(reader->values())
                << " values, " << FormatBytes(static_cast<double>(reader->file_bytes())) << " in " << Printable(path)
                << " (state " << reader->digest() << ")\n";
    }
    return absl::OkStatus();
  }

  // What comes is checked before it is written: what arrived can be imported.
  absl::Status Fetch(const Context& context, StateFileReader* reader, OutputFile* file) const {
    v1::ExportStateRequest request;
    request.set_session(session);
    ProgressBar progress(0);
    const absl::Status status = context.client.ExportState(request, [&](absl::string_view bytes) -> absl::Status {
      if (absl::Status read = reader->Add(bytes); !read.ok()) return read;
      progress.Update(reader->file_bytes());
      return file->Write(bytes);
    });
    return status.ok() ? reader->Finish() : status;
  }

  std::string session;
  std::string path;
  bool force = false;
};

struct ImportCommand {
  explicit ImportCommand(CLI::App* command) {
    AddSessionArgument(open.mutable_session(), command);
    command->add_option("FILE", path, "The state file; - reads standard input")->required()->type_name("");
    command->add_flag("--create", create, "Make the session, with the config of the file's, if there is none");
    command->add_flag("--skip-unmergeable", skip_unmergeable,
                      "Leave out layers that can't be merged, for good; without it the file is refused then");
  }

  absl::Status Run(const Context& context) {
    const absl::StatusOr<std::unique_ptr<InputFile>> input = InputFile::Open(path);
    if (!input.ok()) return input.status();
    v1::StateHeader header;
    const std::unique_ptr<StateFileReader> reader = HeaderReader(&header);
    if (const absl::Status checked = CheckState(input->get(), reader.get()); !checked.ok()) return checked;
    if (create) {
      if (const absl::Status made = CreateSession(context, header); !made.ok()) return made;
    }
    open.set_skip_unmergeable(skip_unmergeable);
    ProgressBar progress(reader->file_bytes());
    uint64_t sent = 0;
    const auto response = context.client.ImportState(open, [&]() -> absl::StatusOr<std::string> {
      absl::StatusOr<std::string> bytes = (*input)->Next();
      if (bytes.ok()) progress.Update(sent += bytes->size());
      return bytes;
    });
    if (!response.ok()) return response.status();
    std::cout << (context.options.json ? ToLine(ToJson(header, *reader, *response)) + "\n"
                                       : ToText(header, *reader, *response));
    return absl::OkStatus();
  }

  absl::Status CreateSession(const Context& context, const v1::StateHeader& header) const {
    v1::GetSessionRequest get;
    get.set_session(open.session());
    get.set_page_size(1);
    const absl::Status found = context.client.GetSession(get).status();
    if (GetReason(found) != v1::ERROR_REASON_SESSION_NOT_FOUND) return found;
    v1::CreateSessionRequest request;
    request.set_session(open.session());
    *request.mutable_config() = header.config();
    return context.client.CreateSession(request).status();
  }

  Json ToJson(const v1::StateHeader& header, const StateFileReader& reader,
              const v1::ImportStateResponse& response) const {
    return {{"session", open.session()},
            {"digest", reader.digest()},
            {"from_session", header.session()},
            {"already_merged", response.already_merged()},
            {"layers", response.layers()},
            {"values", response.values()},
            {"layers_left_out", response.layers_left_out()},
            {"left_out", std::vector<std::string>(response.left_out().begin(), response.left_out().end())}};
  }

  std::string ToText(const v1::StateHeader& header, const StateFileReader& reader,
                     const v1::ImportStateResponse& response) const {
    std::string text = absl::StrCat("state ", reader.digest(), " of session ", Printable(header.session()));
    if (response.already_merged()) {
      absl::StrAppend(&text, " is in session ", open.session(), " already: nothing was changed\n");
      return text;
    }
    absl::StrAppend(&text, ": ", response.layers(), " layers, ", FormatCount(response.values()),
                    " values merged into session ", open.session(), "\n");
    for (const std::string& layer : response.left_out()) absl::StrAppend(&text, "left out: ", Printable(layer), "\n");
    const uint64_t unnamed = response.layers_left_out() - static_cast<uint64_t>(response.left_out_size());
    if (unnamed > 0) absl::StrAppend(&text, "left out: ", unnamed, " layers more\n");
    return text;
  }

  v1::StateImport open;
  std::string path;
  bool create = false;
  bool skip_unmergeable = false;
};

}  // namespace

Run ConfigureExportState(CLI::App* command) {
  return [parsed = std::make_shared<ExportCommand>(command)](const Context& context) { return parsed->Run(context); };
}

Run ConfigureImportState(CLI::App* command) {
  return [parsed = std::make_shared<ImportCommand>(command)](const Context& context) { return parsed->Run(context); };
}

}  // namespace calib::cli
