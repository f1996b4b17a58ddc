#include "runtime/safetensors.h"

#include <algorithm>
#include <filesystem>
#include <limits>
#include <string_view>
#include <utility>

#include "runtime/error.h"
#include "runtime/json.h"

namespace segnext::runtime {
namespace {

constexpr int64_t kLength = 8;                      // bytes of the header's length, in front of it
constexpr int64_t kLargestFile = int64_t{4} << 30;  // as the Python package
// A header of SegNeXt-L has 0.2 MB. Parsed JSON takes up to eight times its text.
constexpr int64_t kLargestHeader = int64_t{16} << 20;
constexpr size_t kMostTensors = 20'000, kLongestName = 300;

constexpr std::pair<std::string_view, int64_t> kDTypes[] = {
    {"F32", 4}, {"BF16", 2}, {"F16", 2}, {"F64", 8}, {"I64", 8},  {"I32", 4},     {"I16", 2},    {"I8", 1},
    {"U64", 8}, {"U32", 4},  {"U16", 2}, {"U8", 1},  {"BOOL", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1}};

[[noreturn]] void damaged(const std::string& what) {
  throw Error(SEGNEXT_BAD_FILE,
              joined({"must be a safetensors file, got one that is damaged: ", what, "; fetch or save it again"}));
}

int64_t size_of(const std::string& path) {
  std::error_code error;
  const auto kind = std::filesystem::status(path, error);
  if (!std::filesystem::exists(kind)) {
    throw Error(SEGNEXT_BAD_FILE, "must be a file, got none there; deploy(model).save(path) in Python writes one");
  }
  if (!std::filesystem::is_regular_file(kind)) {  // opening a pipe would wait for its other end
    throw Error(SEGNEXT_BAD_FILE, "must be a file, got a folder or a device");
  }
  const auto size = std::filesystem::file_size(path, error);
  if (error) throw Error(SEGNEXT_BAD_FILE, joined({"must be readable, got: ", one_line(error.message())}));
  if (size > kLargestFile) {
    throw Error(SEGNEXT_BAD_FILE,
                joined({"must have at most ", std::to_string(kLargestFile), " bytes, got ", std::to_string(size)}));
  }
  return static_cast<int64_t>(size);
}

int64_t little_endian(const unsigned char (&bytes)[kLength]) {
  uint64_t value = 0;
  for (int i = 0; i < kLength; ++i) value |= static_cast<uint64_t>(bytes[i]) << 8 * i;
  return static_cast<int64_t>(std::min<uint64_t>(value, std::numeric_limits<int64_t>::max()));
}

// The whole numbers of a list, none negative.
std::vector<int64_t> sizes(const Json& list, const std::string& name) {
  std::vector<int64_t> result;
  if (!list.is_array()) damaged(joined({name, " has no list of sizes"}));
  for (const Json& size : list) {
    if (!size.is_number_unsigned() || size.get<uint64_t>() > std::numeric_limits<int64_t>::max()) {
      damaged(joined({name, " has a size that is no whole number"}));
    }
    result.push_back(size.get<int64_t>());
  }
  return result;
}

TensorEntry entry(const Json& json, const std::string& name, int64_t data_bytes) {
  if (!json.is_object() || !json.contains("dtype") || !json.contains("shape") || !json.contains("data_offsets") ||
      !json["dtype"].is_string()) {
    damaged(joined({name, " lacks dtype, shape or data_offsets"}));
  }
  TensorEntry result{json["dtype"].get<std::string>(), sizes(json["shape"], name), 0, 0};
  const std::vector<int64_t> offsets = sizes(json["data_offsets"], name);
  if (offsets.size() != 2 || offsets[0] > offsets[1] || offsets[1] > data_bytes) {
    damaged(joined({name, " lies outside of its ", std::to_string(data_bytes), " bytes of data"}));
  }
  result.begin = offsets[0];
  result.bytes = offsets[1] - offsets[0];
  const auto known = std::find_if(std::begin(kDTypes), std::end(kDTypes),
                                  [&](const auto& dtype) { return dtype.first == result.dtype; });
  if (known == std::end(kDTypes)) damaged(joined({name, " has the dtype ", one_line(result.dtype, 20)}));
  int64_t bytes = known->second;
  for (const int64_t size : result.shape) {
    if (__builtin_mul_overflow(bytes, size, &bytes)) damaged(joined({name, " has a shape too large for any file"}));
  }
  if (bytes != result.bytes) {
    damaged(joined({name, " has ", std::to_string(result.bytes), " bytes, its shape takes ", std::to_string(bytes)}));
  }
  return result;
}

// Every byte of the data belongs to exactly one tensor.
void expect_no_gaps(const std::map<std::string, TensorEntry>& tensors, int64_t data_bytes) {
  std::vector<std::pair<int64_t, int64_t>> ranges;
  for (const auto& [name, tensor] : tensors) ranges.emplace_back(tensor.begin, tensor.begin + tensor.bytes);
  std::sort(ranges.begin(), ranges.end());
  int64_t end = 0;
  for (const auto& [begin, next] : ranges) {
    if (begin != end) damaged("its tensors overlap or leave gaps");
    end = next;
  }
  if (end != data_bytes) {
    damaged(joined({"its tensors take ", std::to_string(end), " of ", std::to_string(data_bytes), " bytes of data"}));
  }
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::string& path) {
  const int64_t size = size_of(path);
  file_.open(path, std::ios::binary);
  if (!file_) throw Error(SEGNEXT_BAD_FILE, "must be readable, got a file that does not open; check its permissions");
  unsigned char length[kLength];
  if (size < kLength || !file_.read(reinterpret_cast<char*>(length), kLength)) {
    damaged(joined({"it has ", std::to_string(size), " bytes"}));
  }
  const int64_t header = little_endian(length);
  if (header > kLargestHeader || header > size - kLength) {
    damaged("the length of its header does not fit; it may be of another kind");
  }
  std::string text(static_cast<size_t>(header), '\0');
  if (!file_.read(text.data(), header)) damaged("it ends inside its header");
  data_begin_ = kLength + header;
  const int64_t data_bytes = size - data_begin_;
  const Json json = parsed(text, [](const std::string& why) { damaged("its header " + why); });
  if (json.size() > kMostTensors) damaged(joined({"it has more than ", std::to_string(kMostTensors), " tensors"}));
  for (const auto& [name, value] : json.items()) {
    if (name == "__metadata__") {
      for (const auto& [key, item] : value.items()) {
        if (!value.is_object() || !item.is_string()) damaged("its metadata must be texts by name");
        metadata_.emplace(key, item.get<std::string>());
      }
    } else {
      if (name.size() > kLongestName) damaged("a tensor has a very long name");
      tensors_.emplace(name, entry(value, one_line(name), data_bytes));
    }
  }
  expect_no_gaps(tensors_, data_bytes);
}

void SafetensorsFile::read(const TensorEntry& tensor, void* to) {
  file_.clear();
  if (!file_.seekg(data_begin_ + tensor.begin) || !file_.read(static_cast<char*>(to), tensor.bytes)) {
    damaged("it became shorter while it was read");
  }
}

}  // namespace segnext::runtime
