// JSON from a file of anyone: bounded depth, and its own wording of failures.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>

namespace segnext::runtime {

using Json = nlohmann::json;

// Parses a JSON object. `refuse` gets why it is none, and throws.
Json parsed(const std::string& text, const std::function<void(const std::string&)>& refuse);

}  // namespace segnext::runtime
