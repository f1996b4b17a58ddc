#include "runtime/error.h"

namespace segnext::runtime {
namespace {

// The bytes of the letter that `text` begins with if it is UTF-8 and no control, else 0.
size_t printable(std::string_view text) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const auto continues = [&](size_t i) { return (byte(i) & 0xc0) == 0x80; };
  const unsigned first = byte(0);
  if (first < 0x80) return first >= 0x20 && first != 0x7f ? 1 : 0;
  // U+0080 to U+009F are controls; U+2028 and U+2029 end lines
  if (first >= 0xc2 && first < 0xe0) return continues(1) && (first > 0xc2 || byte(1) >= 0xa0) ? 2 : 0;
  if (first == 0xe2 && byte(1) == 0x80 && (byte(2) == 0xa8 || byte(2) == 0xa9)) return 0;
  if (first >= 0xe0 && first < 0xf0) return continues(1) && continues(2) ? 3 : 0;
  return first >= 0xf0 && first < 0xf5 && continues(1) && continues(2) && continues(3) ? 4 : 0;
}

std::string escaped(std::string_view text) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string result;
  while (!text.empty()) {
    const size_t bytes = printable(text);
    if (bytes > 0) {
      result += text.substr(0, bytes);
    } else {
      const auto byte = static_cast<unsigned char>(text[0]);
      result += {'\\', 'x', kDigits[byte >> 4], kDigits[byte & 15]};
    }
    text.remove_prefix(bytes > 0 ? bytes : 1);
  }
  return result;
}

}  // namespace

std::string joined(std::initializer_list<std::string_view> parts) {
  std::string result;
  for (const std::string_view part : parts) result += part;
  return result;
}

std::string one_line(std::string_view text, size_t limit) {
  if (text.size() <= limit) return escaped(text);
  const size_t head = limit * 2 / 3, tail = limit - head;  // a letter that is cut in two is shown as its bytes
  return escaped(text.substr(0, head)) + "..." + escaped(text.substr(text.size() - tail));
}

}  // namespace segnext::runtime
