#ifndef CALIB_CLIENT_CLI_TABLE_H_
#define CALIB_CLIENT_CLI_TABLE_H_

#include <string>
#include <vector>

namespace calib::cli {

// A text table with aligned columns.
class Table {
 public:
  enum class Align { kLeft, kRight };
  struct Column {
    std::string title;
    Align align = Align::kRight;
  };

  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

  // REQUIRES: one cell a column.
  void AddRow(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }

  // The titles and every row, a line each, two blanks between columns. Cells are made Printable.
  std::string ToString() const;

 private:
  const std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace calib::cli

#endif  // CALIB_CLIENT_CLI_TABLE_H_
