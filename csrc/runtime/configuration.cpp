#include "runtime/configuration.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>
#include <string_view>

#include "ops/msca_conv/msca_conv.h"
#include "ops/resize_sum/resize_sum.h"
#include "runtime/error.h"
#include "runtime/json.h"

namespace segnext::runtime {
namespace {

constexpr std::string_view kFormat = "segnext-deployed-1";
// The bounds of segnext/models/config.py: more is a mistake, or a file that wants our memory.
constexpr int64_t kLargest = 65'536, kDeepest = 256, kMostSteps = 1000, kGroups = 32;
constexpr size_t kLongestClassName = 800;                                                // bytes of 200 letters
constexpr double kMean[] = {123.675, 116.28, 103.53}, kStd[] = {58.395, 57.12, 57.375};  // ImageNet's

[[noreturn]] void refuse(std::string_view what, std::string_view expected, const Json& got,
                         std::string_view remedy = "") {
  throw Error(SEGNEXT_BAD_FILE, joined({"must have ", what, " as ", expected, ", got ",
                                        one_line(got.dump(-1, ' ', true, Json::error_handler_t::replace)), remedy}));
}

// What Python runs by other operators than this library has.
[[noreturn]] void unsupported(std::string_view field, std::string_view expected, const Json& got) {
  throw Error(SEGNEXT_UNSUPPORTED, joined({"must have ", field, " ", expected, " for this library, got ",
                                           one_line(got.dump(-1, ' ', true, Json::error_handler_t::replace)),
                                           "; DeployedSegNeXt.load in Python runs it"}));
}

// The fields of a configuration; each is asked for once, so that one that nobody knows is noticed.
class Fields {
 public:
  explicit Fields(const Json& json) : json_(json) {}

  const Json& operator[](const std::string& name) {
    const auto found = json_.find(name);
    if (found == json_.end()) {
      throw Error(SEGNEXT_BAD_FILE, joined({"must have the field ", name, " in its config, got none"}));
    }
    asked_.insert(name);
    return *found;
  }

  int64_t integer(const std::string& name, int64_t least, int64_t most) {
    const Json& value = (*this)[name];
    if (!is_within(value, least, most)) refuse(name, range(least, most), value);
    return value.get<int64_t>();
  }

  std::vector<int64_t> integers(const std::string& name, int64_t least, int64_t most) {
    const Json& value = (*this)[name];
    const auto fits = [&](const Json& item) { return is_within(item, least, most); };
    if (!value.is_array() || !std::all_of(value.begin(), value.end(), fits)) {
      refuse(name, "a list of whole numbers, each " + range(least, most), value);
    }
    return value.get<std::vector<int64_t>>();
  }

  std::array<int64_t, kStages> per_stage(const std::string& name, int64_t most) {
    const std::vector<int64_t> values = integers(name, 1, most);
    std::array<int64_t, kStages> result{};
    if (values.size() != result.size()) refuse(name, "four positive integers", (*this)[name]);
    std::copy(values.begin(), values.end(), result.begin());
    return result;
  }

  bool flag(const std::string& name) {
    const Json& value = (*this)[name];
    if (!value.is_boolean()) refuse(name, "true or false", value);
    return value.get<bool>();
  }

  std::string text(const std::string& name) {
    const Json& value = (*this)[name];
    if (!value.is_string()) refuse(name, "a text", value);
    return value.get<std::string>();
  }

  void ignore(std::initializer_list<const char*> names) { asked_.insert(names.begin(), names.end()); }

  void expect_all_known() const {
    for (const auto& [name, value] : json_.items()) {
      if (asked_.count(name) == 0) {
        throw Error(SEGNEXT_UNSUPPORTED, joined({"must have fields in its config that this library knows, got ",
                                                 one_line(name), "; a newer segnext wrote it"}));
      }
    }
  }

 private:
  static bool is_within(const Json& value, int64_t least, int64_t most) {
    if (!value.is_number_integer()) return false;
    // an unsigned number may lie above all that int64 holds
    if (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(most)) return false;
    return value.get<int64_t>() >= least && value.get<int64_t>() <= most;
  }

  static std::string range(int64_t least, int64_t most) {
    return joined({"from ", std::to_string(least), " to ", std::to_string(most)});
  }

  const Json& json_;
  std::set<std::string> asked_;
};

// The stages that a decoder reads: its in_indices, else its kind's own.
std::vector<int> stages(Fields& fields, const std::string& decoder) {
  const Json& given = fields["in_indices"];
  if (given.is_null()) return decoder == "cnn" ? std::vector<int>{3} : std::vector<int>{1, 2, 3};
  const std::vector<int64_t> values = fields.integers("in_indices", 0, kStages - 1);
  const bool rises = std::adjacent_find(values.begin(), values.end(), std::greater_equal<>()) == values.end();
  if (values.empty() || !rises || (decoder == "cnn" && values.size() > 1)) {
    refuse("in_indices", "stages from 0 to 3 in rising order (one for the decoder cnn)", given);
  }
  return {values.begin(), values.end()};
}

void read_attention(Fields& fields, Configuration& result) {
  if (fields.text("attention") != "msca") unsupported("attention", "\"msca\"", fields["attention"]);
  if (!fields.flag("gate")) unsupported("gate", "true", fields["gate"]);
  result.strips = fields.integers("strips", 1, kLargest);
  result.root = fields.integer("root", 1, kLargest);
  const auto is_even = [](int64_t length) { return length % 2 == 0; };
  if (std::any_of(result.strips.begin(), result.strips.end(), is_even)) {
    refuse("strips", "odd lengths", fields["strips"]);
  }
  if (is_even(result.root)) refuse("root", "odd", fields["root"]);
  const auto is_long = [](int64_t length) { return length > kMaxStripTaps; };
  if (result.strips.size() > kMaxStrips || std::any_of(result.strips.begin(), result.strips.end(), is_long)) {
    unsupported("strips",
                joined({"of up to ", std::to_string(kMaxStrips), " lengths up to ", std::to_string(kMaxStripTaps)}),
                fields["strips"]);
  }
  if (result.root > kMaxRoot) unsupported("root", "up to " + std::to_string(kMaxRoot), fields["root"]);
}

void read_decoder(Fields& fields, Configuration& result) {
  const std::string decoder = fields.text("decoder");
  if (decoder != "ham" && decoder != "cnn") unsupported("decoder", "\"ham\" or \"cnn\"", fields["decoder"]);
  const Json& context = fields["context"];
  if (!context.is_null() && context != "ham") unsupported("context", "\"ham\" or null", context);
  result.has_hamburger = !context.is_null();
  for (const char* name : {"align_corners", "decoder_align_corners"}) {
    if (fields.flag(name)) unsupported(name, "false", fields[name]);
  }
  result.stages = stages(fields, decoder);
  static_assert(kMaxResized >= kStages - 1);
  result.decoder_channels = fields.integer("decoder_channels", kGroups, kLargest);
  if (result.decoder_channels % kGroups != 0) {
    refuse("decoder_channels", "a multiple of 32", fields["decoder_channels"]);
  }
  result.rank = fields.integer("rank", 1, kLargest);
  result.steps = fields.integer("eval_steps", 1, kMostSteps);
}

Configuration configuration(const Json& json) {
  Fields fields(json);
  Configuration result{};
  result.channels = fields.per_stage("channels", kLargest);
  result.depths = fields.per_stage("depths", kDeepest);
  result.expansions = fields.per_stage("expansions", kLargest);
  if (result.channels[0] % 2 != 0) refuse("channels", "even in the first stage", fields["channels"]);
  result.in_channels = fields.integer("in_channels", 1, kLargest);
  result.num_classes = fields.integer("num_classes", 2, kLargest);
  const Json& threshold = fields["threshold"];
  if (!threshold.is_null()) {
    const double value = threshold.is_number() ? threshold.get<double>() : 0;
    if (!(value > 0 && value < 1)) refuse("threshold", "a number between 0 and 1, or null", threshold);
    if (result.num_classes != 2) refuse("num_classes", "2 with a threshold", fields["num_classes"]);
    result.threshold = value;
  }
  read_attention(fields, result);
  read_decoder(fields, result);
  // a 1x1 convolution that does not mix is the identity in the file; the rest is for training
  fields.ignore(
      {"architecture", "mix", "drop_path", "dropout", "recompute", "nmf_grad", "random_eval_bases", "decoder_dropout"});
  fields.expect_all_known();
  return result;
}

std::vector<std::string> classes(const Json& metadata, int64_t count) {
  std::vector<std::string> result;
  const Json given = metadata.value("classes", Json());
  if (given.is_null()) {
    for (int64_t i = 0; i < count; ++i) result.push_back("class " + std::to_string(i));
    return result;
  }
  const auto is_name = [](const Json& name) {
    if (!name.is_string()) return false;
    const std::string text = name.get<std::string>();
    return one_line(text, kLongestClassName) == text && text.find('\0') == std::string::npos;
  };
  if (!given.is_array() || given.size() != static_cast<size_t>(count) ||
      !std::all_of(given.begin(), given.end(), is_name)) {
    refuse("classes", std::to_string(count) + " names of one line", given);
  }
  return given.get<std::vector<std::string>>();
}

std::vector<uint8_t> palette(const Json& metadata, int64_t count) {
  std::vector<uint8_t> result;
  const Json given = metadata.value("palette", Json());
  if (given.is_null()) return result;
  const auto is_level = [](const Json& level) { return level.is_number_unsigned() && level.get<uint64_t>() <= 255; };
  const auto is_colour = [&](const Json& colour) {
    return colour.is_array() && colour.size() == 3 && std::all_of(colour.begin(), colour.end(), is_level);
  };
  if (!given.is_array() || given.size() != static_cast<size_t>(count) ||
      !std::all_of(given.begin(), given.end(), is_colour)) {
    refuse("palette", std::to_string(count) + " colours [red, green, blue] of 0 to 255", given);
  }
  for (const Json& colour : given) {
    for (const Json& level : colour) result.push_back(level.get<uint8_t>());
  }
  return result;
}

// One number per channel of the image. A model whose image has other channels may still have ImageNet's three: then
// the list is empty, and only normalised images can be given to it.
std::vector<float> statistics(const Json& preprocessing, const char* name, const double (&otherwise)[3], double least,
                              int64_t channels) {
  const Json given = preprocessing.value(name, Json(otherwise));
  const auto is_number = [&](const Json& number) {
    return number.is_number() && std::isfinite(number.get<double>()) && number.get<double>() > least;
  };
  const bool fits = given.is_array() && (given.size() == static_cast<size_t>(channels) || given.size() == 3);
  if (!fits || !std::all_of(given.begin(), given.end(), is_number)) {
    refuse(joined({"the ", name, " of its preprocessing"}), std::to_string(channels) + " numbers in range", given);
  }
  if (given.size() != static_cast<size_t>(channels)) return {};
  return given.get<std::vector<float>>();
}

const std::string& entry(const std::map<std::string, std::string>& header, const char* name) {
  const auto found = header.find(name);
  if (found == header.end()) {
    throw Error(SEGNEXT_BAD_FILE, joined({"must have ", name, " in its header, got none; save the model again"}));
  }
  return found->second;
}

Json object(const std::map<std::string, std::string>& header, const char* name) {
  return parsed(entry(header, name), [&](const std::string& why) {
    throw Error(SEGNEXT_BAD_FILE,
                joined({"must have ", name, " as a JSON object in its header, got a text that ", why}));
  });
}

}  // namespace

Description description(const std::map<std::string, std::string>& header) {
  const auto format = header.find("format");
  if (format == header.end() || format->second != kFormat) {
    throw Error(SEGNEXT_BAD_FILE,
                "must be a deployed SegNeXt, got other weights; segnext.deploy(model).save(path) in Python writes one");
  }
  Description result{configuration(object(header, "config")), DType::kFloat32, {}, {}, {}, {}};
  const std::string& dtype = entry(header, "dtype");
  if (dtype != "float32" && dtype != "bfloat16") refuse("dtype", "float32 or bfloat16", Json(dtype));
  result.dtype = dtype == "bfloat16" ? DType::kBFloat16 : DType::kFloat32;
  const Json metadata = object(header, "metadata");
  const Configuration& network = result.configuration;
  result.classes = classes(metadata, network.num_classes);
  result.palette = palette(metadata, network.num_classes);
  Json preprocessing = metadata.value("preprocessing", Json());
  if (preprocessing.is_null()) preprocessing = Json::object();
  if (!preprocessing.is_object()) refuse("preprocessing", "an object", preprocessing);
  constexpr double kInfinity = HUGE_VAL;
  result.mean = statistics(preprocessing, "mean", kMean, -kInfinity, network.in_channels);
  result.std = statistics(preprocessing, "std", kStd, 0, network.in_channels);
  if (result.mean.size() != result.std.size()) {
    refuse("the std of its preprocessing", "long as the mean", preprocessing["std"]);
  }
  return result;
}

}  // namespace segnext::runtime
