// What goes wrong in the runtime: a status of the C interface and one line for the user.
#pragma once

#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>

#include "runtime/segnext.h"

namespace segnext::runtime {

class Error : public std::runtime_error {
 public:
  Error(segnext_status status, const std::string& line) : std::runtime_error(line), status(status) {}

  const segnext_status status;
};

// Texts one after another, as a message is made of them.
std::string joined(std::initializer_list<std::string_view> parts);

// A text from outside on one line: what cannot be printed becomes \x0a and the like, and the middle of a long one goes.
std::string one_line(std::string_view text, size_t limit = 120);

}  // namespace segnext::runtime
