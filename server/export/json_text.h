#ifndef CALIB_SERVER_EXPORT_JSON_TEXT_H_
#define CALIB_SERVER_EXPORT_JSON_TEXT_H_

#include <string>
#include <utility>

#include "nlohmann/json.hpp"

namespace calib::server {

// Keys keep the order in which they are set.
using Json = nlohmann::ordered_json;

// A number that prints as NumberText does. What is not finite is null.
Json JsonNumber(float value);
Json JsonNumber(double value);
// One number, or an array of several.
template <typename Values>
Json JsonArray(const Values& values) {
  Json array = Json::array();
  array.get_ref<Json::array_t&>().reserve(static_cast<size_t>(values.size()));
  for (const auto value : values) array.push_back(JsonNumber(value));
  return array;
}

// An empty object with room for so many keys. One without room copies all it has, values too, when it grows.
Json JsonObject(size_t keys);
// Sets a key that the object does not have yet, without looking for it: objects are searched key by key.
void AddKey(Json* object, std::string key, Json value);

// The file: indented, one key a line.
std::string JsonText(const Json& json);

}  // namespace calib::server

#endif  // CALIB_SERVER_EXPORT_JSON_TEXT_H_
