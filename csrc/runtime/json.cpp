#include "runtime/json.h"

namespace segnext::runtime {
namespace {

constexpr int kDeepest = 32;  // headers have 3 levels, metadata a few more

struct TooDeep {};

}  // namespace

Json parsed(const std::string& text, const std::function<void(const std::string&)>& refuse) {
  try {
    const auto bounded = [](int depth, Json::parse_event_t, Json&) {
      if (depth > kDeepest) throw TooDeep{};
      return true;
    };
    Json result = Json::parse(text, bounded);
    if (result.is_object()) return result;
    refuse("is no JSON object");
  } catch (const Json::exception&) {
    refuse("is no JSON");
  } catch (const TooDeep&) {
    refuse("is nested too deeply");
  }
  return {};
}

}  // namespace segnext::runtime
