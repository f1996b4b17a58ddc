#include "runtime/json.h"

#include <algorithm>

namespace segnext::runtime {
namespace {

constexpr int kDeepest = 32;  // headers have 3 levels, metadata a few more

// How deep lists and objects of a text are nested. The parser's own callback could tell, but with one it takes 30
// seconds for 20,000 tensors: it looks through all earlier ones at the end of each.
int depth_of(const std::string& text) {
  int depth = 0, deepest = 0;
  bool is_quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char letter = text[i];
    if (is_quoted && letter == '\\') {
      ++i;  // an escaped quotation mark ends nothing
    } else if (letter == '"') {
      is_quoted = !is_quoted;
    } else if (!is_quoted && (letter == '[' || letter == '{')) {
      deepest = std::max(deepest, ++depth);
    } else if (!is_quoted && (letter == ']' || letter == '}')) {
      --depth;
    }
  }
  return deepest;
}

}  // namespace

Json parsed(const std::string& text, const std::function<void(const std::string&)>& refuse) {
  if (depth_of(text) > kDeepest) refuse("is nested too deeply");
  try {
    Json result = Json::parse(text);
    if (result.is_object()) return result;
  } catch (const Json::exception&) {
    refuse("is no JSON");
  }
  refuse("is no JSON object");
  return {};
}

}  // namespace segnext::runtime
