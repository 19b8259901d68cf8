#include "server/export/json_text.h"

#include <charconv>
#include <cmath>

#include "server/export/number_text.h"

namespace calib::server {

Json JsonNumber(float value) {
  if (!std::isfinite(value)) return nullptr;
  // The double that float32's shortest text spells: it prints as that text, not with the digits of the float widened.
  const std::string text = NumberText(value);
  double shown = 0;
  std::from_chars(text.data(), text.data() + text.size(), shown);
  return shown;
}

Json JsonNumber(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

Json JsonObject(size_t keys) {
  Json object = Json::object();
  object.get_ref<Json::object_t&>().reserve(keys);
  return object;
}

void AddKey(Json* object, std::string key, Json value) {
  object->get_ref<Json::object_t&>().emplace_back(std::move(key), std::move(value));
}

std::string JsonText(const Json& json) { return json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n"; }

}  // namespace calib::server
