// Reads a safetensors file: its header is checked as a whole, then tensors are read one by one.
//
// The file may come from anyone. It is read, not mapped: weights are packed once and then not needed, so that a map
// would save nothing, and a file that another process shortens would end this one.
#pragma once

#include <cstdint>
#include <fstream>
#include <map>
#include <string>
#include <vector>

namespace segnext::runtime {

struct TensorEntry {
  std::string dtype;  // "F32" and the like
  std::vector<int64_t> shape;
  int64_t begin, bytes;  // in the file's data
};

class SafetensorsFile {
 public:
  // Throws Error with SEGNEXT_BAD_FILE; the message follows the file's name.
  explicit SafetensorsFile(const std::string& path);

  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::map<std::string, TensorEntry>& tensors() const { return tensors_; }

  // Reads a tensor's bytes.
  void read(const TensorEntry& tensor, void* to);

 private:
  std::ifstream file_;
  int64_t data_begin_ = 0;
  std::map<std::string, std::string> metadata_;
  std::map<std::string, TensorEntry> tensors_;
};

}  // namespace segnext::runtime
