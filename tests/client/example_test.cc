#include <sys/wait.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

#include "tests/client/client_fixture.h"

namespace calib::client {
namespace {

class ExampleTest : public ClientFixture {};

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST_F(ExampleTest, TheReadmeShowsTheProgramThatIsBuilt) {
  const std::string source = ReadFile(CALIB_CLIENT_DIR "/example.cc");
  ASSERT_FALSE(source.empty());
  EXPECT_THAT(ReadFile(CALIB_CLIENT_DIR "/README.md"), ::testing::HasSubstr("```cpp\n" + source + "```"));
}

TEST_F(ExampleTest, TheProgramRunsAsTheReadmeSays) {
  const std::string output = ::testing::TempDir() + "/calib_client_example.txt";
  const std::string command = CALIB_BIN_DIR "/calib_client_example " + server_->address() + " demo > " + output;
  EXPECT_EQ(WEXITSTATUS(std::system(command.c_str())), 0);
  const std::string line = ReadFile(output);
  EXPECT_THAT(line, ::testing::StartsWith("model.fc1: scale 0.0"));
  EXPECT_THAT(ReadFile(CALIB_CLIENT_DIR "/README.md"), ::testing::HasSubstr(line));
  EXPECT_EQ(Session("demo").session().values(), 10 * 64 * 1024u);
}

}  // namespace
}  // namespace calib::client
