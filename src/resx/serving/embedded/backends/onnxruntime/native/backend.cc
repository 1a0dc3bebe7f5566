// Triton backend `onnxruntime`, in the server's own process: what model.py beside this folder does through a Python
// process per instance. The same words of config.pbtxt, the same answers, the same faults; model.py says which.
//
// No Python, no second process and no shared memory stand between a request and onnxruntime, so a small network is
// answered a fifth faster. What crashes here takes the server with it, where a Python process takes its model alone.
//
// Instances that compute on one thread each have one session in common, as then no thread pool is theirs: its weights
// are in memory once. What more instances cost is their buffers.

#include <sched.h>

#include <algorithm>
#include <cctype>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "engine_cache.h"
#include "json.h"
#include "ort.h"
#include "triton.h"

namespace {

namespace fs = std::filesystem;

// What a client or the operator is told.
struct Failure : std::runtime_error {
  Failure(TRITONSERVER_Error_Code code, const std::string& message) : std::runtime_error(message), code(code) {}
  TRITONSERVER_Error_Code code;
};

[[noreturn]] void refuse(const std::string& message) { throw Failure(TRITONSERVER_ERROR_INVALID_ARG, message); }

void check(TRITONSERVER_Error* error) {
  if (error == nullptr) return;
  Failure failure(TRITONSERVER_ERROR_INTERNAL, TRITONSERVER_ErrorMessage(error));
  TRITONSERVER_ErrorDelete(error);
  throw failure;
}

// Of the library that TRITONBACKEND_Initialize loads; every model's sessions are of one environment.
struct Runtime {
  explicit Runtime(const std::string& library)
      : api(library), env(nullptr, api.ReleaseEnv), cpu(nullptr, api.ReleaseMemoryInfo) {
    ort::Env* made = nullptr;
    ort::MemoryInfo* memory = nullptr;
    check(api.CreateEnv(ort::kLogErrors, "resx", &made));
    env.reset(made);
    check(api.CreateCpuMemoryInfo(ort::kArenaAllocator, ort::kDefaultMemory, &memory));
    cpu.reset(memory);
  }

  void check(ort::Status* status) const {
    if (status == nullptr) return;
    bool mistaken = api.GetErrorCode(status) == ort::kInvalidArgument;
    Failure failure(
        mistaken ? TRITONSERVER_ERROR_INVALID_ARG : TRITONSERVER_ERROR_INTERNAL,
        std::string("onnxruntime: ") + api.GetErrorMessage(status));
    api.ReleaseStatus(status);
    throw failure;
  }

  ort::Api api;
  ort::Owned<ort::Env> env;
  ort::Owned<ort::MemoryInfo> cpu;
};

std::unique_ptr<Runtime> runtime;

template <class T>
ort::Owned<T> owned(T* object, void (*release)(T*)) {
  return ort::Owned<T>(object, release);
}

struct ElementType {
  int ort;
  TRITONSERVER_DataType triton;
  size_t bytes;
  const char* ort_name;
  const char* triton_name;
};

// Strings and bfloat16 are not served, as model.py cannot.
constexpr ElementType kTypes[] = {
    {9, TRITONSERVER_TYPE_BOOL, 1, "tensor(bool)", "TYPE_BOOL"},
    {2, TRITONSERVER_TYPE_UINT8, 1, "tensor(uint8)", "TYPE_UINT8"},
    {4, TRITONSERVER_TYPE_UINT16, 2, "tensor(uint16)", "TYPE_UINT16"},
    {12, TRITONSERVER_TYPE_UINT32, 4, "tensor(uint32)", "TYPE_UINT32"},
    {13, TRITONSERVER_TYPE_UINT64, 8, "tensor(uint64)", "TYPE_UINT64"},
    {3, TRITONSERVER_TYPE_INT8, 1, "tensor(int8)", "TYPE_INT8"},
    {5, TRITONSERVER_TYPE_INT16, 2, "tensor(int16)", "TYPE_INT16"},
    {6, TRITONSERVER_TYPE_INT32, 4, "tensor(int32)", "TYPE_INT32"},
    {7, TRITONSERVER_TYPE_INT64, 8, "tensor(int64)", "TYPE_INT64"},
    {10, TRITONSERVER_TYPE_FP16, 2, "tensor(float16)", "TYPE_FP16"},
    {1, TRITONSERVER_TYPE_FP32, 4, "tensor(float)", "TYPE_FP32"},
    {11, TRITONSERVER_TYPE_FP64, 8, "tensor(double)", "TYPE_FP64"},
};

const char* unserved_name(int ort_type) {
  switch (ort_type) {
    case 8: return "tensor(string)";
    case 16: return "tensor(bfloat16)";
    default: return "tensor of another type";
  }
}

const ElementType& type_of(int ort_type, const std::string& tensor) {
  std::string served;
  for (const ElementType& type : kTypes) {
    if (type.ort == ort_type) return type;
    served += (served.empty() ? "" : ", ") + std::string(type.ort_name);
  }
  refuse(tensor + " is a " + unserved_name(ort_type) + "; this backend serves " + served);
}

const ElementType& type_of(TRITONSERVER_DataType triton_type, const std::string& tensor) {
  for (const ElementType& type : kTypes) {
    if (type.triton == triton_type) return type;
  }
  refuse("input '" + tensor + "' has a type that this backend does not serve");
}

// An input or output of a model file.
struct Described {
  std::string name;
  const ElementType* type;
  std::vector<int64_t> shape;  // -1 where an axis has a name or none

  bool has_free_first_axis() const { return !shape.empty() && shape[0] < 0; }
};

std::string listed(const std::vector<std::string>& names) {
  std::string text = "[";
  for (const std::string& name : names) text += (text.size() > 1 ? ", '" : "'") + name + "'";
  return text + "]";
}

// A model file, opened.
class Session {
 public:
  Session(const std::string& path, const ort::SessionOptions* options)
      : session_(nullptr, runtime->api.ReleaseSession) {
    ort::Session* made = nullptr;
    runtime->check(runtime->api.CreateSession(runtime->env.get(), path.c_str(), options, &made));
    session_.reset(made);
    const ort::Api& api = runtime->api;
    inputs = described(api.SessionGetInputCount, api.SessionGetInputName, api.SessionGetInputTypeInfo);
    outputs = described(api.SessionGetOutputCount, api.SessionGetOutputName, api.SessionGetOutputTypeInfo);
  }

  ort::Session* get() const { return session_.get(); }

  std::vector<Described> inputs, outputs;

 private:
  template <class Count, class Name, class Type>
  std::vector<Described> described(Count count, Name name, Type type) const {
    const ort::Api& api = runtime->api;
    size_t number = 0;
    runtime->check(count(get(), &number));
    std::vector<Described> tensors;
    for (size_t index = 0; index < number; ++index) {
      ort::Allocator* allocator = nullptr;
      char* text = nullptr;
      runtime->check(api.GetAllocatorWithDefaultOptions(&allocator));
      runtime->check(name(get(), index, allocator, &text));
      Described tensor{text, nullptr, {}};
      runtime->check(api.AllocatorFree(allocator, text));
      ort::TypeInfo* made = nullptr;
      runtime->check(type(get(), index, &made));
      auto info = owned(made, api.ReleaseTypeInfo);
      int kind = 0;
      runtime->check(api.GetOnnxTypeFromTypeInfo(info.get(), &kind));
      if (kind != ort::kTensor) refuse(tensor.name + " is not a tensor; this backend serves tensors alone");
      const ort::TensorInfo* of_tensor = nullptr;
      runtime->check(api.CastTypeInfoToTensorInfo(info.get(), &of_tensor));
      int element = 0;
      size_t num_dims = 0;
      runtime->check(api.GetTensorElementType(of_tensor, &element));
      runtime->check(api.GetDimensionsCount(of_tensor, &num_dims));
      tensor.type = &type_of(element, tensor.name);
      tensor.shape.resize(num_dims);
      runtime->check(api.GetDimensions(of_tensor, tensor.shape.data(), num_dims));
      tensors.push_back(std::move(tensor));
    }
    return tensors;
  }

  ort::Owned<ort::Session> session_;
};

// What config.pbtxt says, in the words of NVIDIA's onnxruntime backend.
class Configuration {
 public:
  explicit Configuration(TRITONBACKEND_Model* model) {
    TRITONSERVER_Message* message = nullptr;
    check(TRITONBACKEND_ModelConfig(model, 1, &message));
    std::unique_ptr<TRITONSERVER_Message, TRITONSERVER_Error* (*)(TRITONSERVER_Message*)> held(
        message, TRITONSERVER_MessageDelete);
    const char* text = nullptr;
    size_t size = 0;
    check(TRITONSERVER_MessageSerializeToJson(message, &text, &size));
    json = JsonReader::read({text, size});

    TRITONBACKEND_ArtifactType kind;
    const char* folder = nullptr;
    uint64_t version = 0;
    check(TRITONBACKEND_ModelRepository(model, &kind, &folder));
    check(TRITONBACKEND_ModelVersion(model, &version));
    std::string name = json["default_model_filename"].text;
    fs::path file = name.empty() ? "model.onnx" : name;
    if (file.is_absolute() || std::find(file.begin(), file.end(), "..") != file.end()) {
      refuse("default_model_filename '" + name + "' leads out of the version's folder");
    }
    fs::path whole = fs::path(folder) / std::to_string(version) / file;
    path = fs::is_directory(whole) ? whole / "model.onnx" : whole;
    if (!fs::is_regular_file(path)) {
      refuse(path + ": no such file; default_model_filename in config.pbtxt names another");
    }
  }

  int64_t max_batch_size() const { return json["max_batch_size"].integer(); }

  // Options of a session, on this GPU where it is not negative.
  ort::Owned<ort::SessionOptions> session_options(int gpu) const {
    const ort::Api& api = runtime->api;
    ort::SessionOptions* made = nullptr;
    runtime->check(api.CreateSessionOptions(&made));
    auto options = owned(made, api.ReleaseSessionOptions);
    runtime->check(api.SetSessionLogSeverityLevel(made, ort::kLogErrors));
    runtime->check(api.SetSessionGraphOptimizationLevel(made, graph_level()));
    runtime->check(api.SetIntraOpNumThreads(made, intra_op_threads()));
    runtime->check(api.SetInterOpNumThreads(made, std::max(1, count("inter_op_thread_count"))));
    if (flag("execution_mode", false)) runtime->check(api.SetSessionExecutionMode(made, 1));
    if (!flag("enable_mem_arena", true)) runtime->check(api.DisableCpuMemArena(made));
    if (!flag("enable_mem_pattern", true)) runtime->check(api.DisableMemPattern(made));
    const Json& parameters = json["parameters"];
    for (const std::string& key : parameters.names) {
      if (key.rfind("session.", 0) == 0 && key != kSpinning && key != kSpinDuration) {
        runtime->check(api.AddSessionConfigEntry(made, key.c_str(), parameter(key).c_str()));
      }
    }
    add_spinning(made);
    require_known_accelerators();
    if (gpu >= 0) append_gpu(made, gpu);
    return options;
  }

  // Options of every run, null for onnxruntime's own.
  ort::Owned<ort::RunOptions> run_options() const {
    const ort::Api& api = runtime->api;
    auto none = owned<ort::RunOptions>(nullptr, api.ReleaseRunOptions);
    static constexpr const char* kShrinkage = "memory.enable_memory_arena_shrinkage";
    std::string devices = parameter(kShrinkage);
    if (devices.empty()) return none;
    for (size_t begin = 0; begin <= devices.size();) {
      size_t end = std::min(devices.find(';', begin), devices.size());
      std::string device = devices.substr(begin, end - begin);
      if (!device.empty() && device != "cpu:0" && device != "gpu:0") {
        refuse(said(kShrinkage, devices) + ": give cpu:0, or cpu:0;gpu:0");
      }
      begin = end + 1;
    }
    if (!flag("enable_mem_arena", true)) {
      refuse(
          std::string("parameter ") + kShrinkage + " in config.pbtxt: there is no arena, as enable_mem_arena is off");
    }
    ort::RunOptions* made = nullptr;
    runtime->check(api.CreateRunOptions(&made));
    auto options = owned(made, api.ReleaseRunOptions);
    runtime->check(api.AddRunConfigEntry(made, kShrinkage, "cpu:0"));
    return options;
  }

  // As whoever started the server found them, a CPU quota included; else those of the mask.
  static int usable_cores() {
    const char* told = std::getenv("RESX_SERVER_CORES");
    if (int cores = told ? std::atoi(told) : 0) return cores;
    cpu_set_t usable;
    return sched_getaffinity(0, sizeof usable, &usable) == 0 ? CPU_COUNT(&usable) : 1;
  }

  // Threads of one run. Without a count the instances share the cores evenly.
  int intra_op_threads() const {
    if (int threads = count("intra_op_thread_count")) return threads;
    int64_t instances = 0;
    for (const Json& group : json["instance_group"].items) {
      instances += group["count"] ? group["count"].integer() : 1;
    }
    return std::max(1, static_cast<int>(usable_cores() / std::max<int64_t>(1, instances)));
  }

  // On a GPU each instance has a stream, and so a session, of its own.
  bool shares_a_session(int gpu) const {
    return gpu < 0 && intra_op_threads() == 1 && !flag("execution_mode", false);
  }

  // TensorRT's options on this GPU, with the folders where it keeps its engines; empty where it is not asked for.
  engine_cache::Options tensorrt_options(int gpu) const {
    engine_cache::Options options;
    if (gpu < 0) return options;
    for (const Json& one : accelerators("gpu").items) {
      if (one["name"].text != "tensorrt") continue;
      const Json& given = one["parameters"];
      options["device_id"] = std::to_string(gpu);
      for (const std::string& key : given.names) add_tensorrt(options, key, given[key].text);
      engine_cache::place(options, path, engine_cache::folder_for(gpu));
    }
    return options;
  }

  Json json;
  std::string path;  // of the model file

 private:
  using Options = engine_cache::Options;

  static constexpr const char* kSpinning = "session.intra_op.allow_spinning";
  static constexpr const char* kSpinDuration = "session.intra_op.spin_duration_us";
  static constexpr int kSpinUs = 200, kMaxSpinUs = 1000000;  // as config_values.py has them
  inline static const std::string kCudaHere = "gpu_execution_accelerator cuda in config.pbtxt: ";

  std::string parameter(const std::string& name) const {
    std::string text = json["parameters"][name]["string_value"].text;
    size_t begin = text.find_first_not_of(" \t\r\n"), end = text.find_last_not_of(" \t\r\n");
    return begin == std::string::npos ? "" : text.substr(begin, end - begin + 1);
  }

  static std::string said(const std::string& name, const std::string& value) {
    return "parameter " + name + "='" + value + "' in config.pbtxt";
  }

  int count(const std::string& name, int most = 1024, const char* what = " (the default)") const {
    std::string text = parameter(name), limit = std::to_string(most);
    bool is_number = text.size() <= limit.size() && text.find_first_not_of("0123456789") == std::string::npos;
    int value = text.empty() || !is_number ? 0 : std::stoi(text);
    if (!is_number || value > most) refuse(said(name, text) + ": give 0" + what + " to " + limit);
    return value;
  }

  // As session_settings.py's spin_entries: bounded unless allow_spinning alone is 1, and off where the library does not
  // know a bound.
  void add_spinning(ort::SessionOptions* options) const {
    const ort::Api& api = runtime->api;
    bool asked = !parameter(kSpinDuration).empty();
    int duration_us = asked ? count(kSpinDuration, kMaxSpinUs, "") : kSpinUs;
    bool spins = flag(kSpinning, true), without_end = !asked && !parameter(kSpinning).empty();
    bool knows_a_bound = api.major > 1 || (api.major == 1 && api.minor >= 26);
    if (!without_end && (duration_us == 0 || !knows_a_bound)) spins = false;
    runtime->check(api.AddSessionConfigEntry(options, kSpinning, spins ? "1" : "0"));
    if (spins && !without_end) {
      runtime->check(api.AddSessionConfigEntry(options, kSpinDuration, std::to_string(duration_us).c_str()));
    }
  }

  bool flag(const std::string& name, bool otherwise) const {
    std::string text = parameter(name);
    std::transform(text.begin(), text.end(), text.begin(), [](unsigned char one) { return std::tolower(one); });
    if (text.empty()) return otherwise;
    if (text == "1" || text == "true") return true;
    if (text == "0" || text == "false") return false;
    refuse(said(name, text) + ": give 0 or 1");
  }

  int graph_level() const {
    std::string text = json["optimization"]["graph"]["level"].text;
    if (text == "-1") return 1;                    // basic
    if (text.empty() || text == "0") return 99;    // all
    if (text == "1") return 2;                     // extended
    if (text == "2") return 0;                     // none
    refuse(
        "optimization.graph.level: " + text + " in config.pbtxt: give -1 (basic), 0 (all), 1 (extended), 2 (none)");
  }

  const Json& accelerators(const char* kind) const {
    return json["optimization"]["execution_accelerators"][std::string(kind) + "_execution_accelerator"];
  }

  // TensorRT where it is asked for, and CUDA; the words and defaults are those of execution_providers.py.
  void append_gpu(ort::SessionOptions* options, int gpu) const {
    const ort::Api& api = runtime->api;
    Options cuda{{"device_id", std::to_string(gpu)}, {"use_tf32", "0"}};
    for (const char* key :
         {"cudnn_conv_algo_search", "arena_extend_strategy", "do_copy_in_default_stream", "gpu_mem_limit"}) {
      if (std::string text = parameter(key); !text.empty()) cuda[key] = in_words(key, text);
    }
    for (const Json& one : accelerators("gpu").items) {
      const Json& given = one["parameters"];
      if (one["name"].text == "cuda") {
        for (const std::string& key : given.names) {
          if (key == "device_id") refuse(kCudaHere + "the instance group's gpus say device_id");
          if (key == "enable_cuda_graph") refuse(kCudaHere + "CUDA graphs are for a server without --native");
          cuda[key] = in_words(key, given[key].text);
        }
        continue;
      }
      Options tensorrt = tensorrt_options(gpu);
      if (is_in_fp32(tensorrt)) setenv("NVIDIA_TF32_OVERRIDE", "0", 0);  // its provider has no option for TF32
      ort::TensorRtOptions* made = nullptr;
      runtime->check(api.CreateTensorRtOptions(&made));
      auto held = owned(made, api.ReleaseTensorRtOptions);
      update(api.UpdateTensorRtOptions, made, tensorrt);
      runtime->check(api.AppendTensorRt(options, made));
    }
    ort::CudaOptions* made = nullptr;
    runtime->check(api.CreateCudaOptions(&made));
    auto held = owned(made, api.ReleaseCudaOptions);
    update(api.UpdateCudaOptions, made, cuda);
    runtime->check(api.AppendCuda(options, made));
  }

  template <class Update, class Made>
  static void update(Update update, Made* made, const Options& options) {
    std::vector<const char*> keys, values;
    for (const auto& [key, value] : options) keys.push_back(key.c_str()), values.push_back(value.c_str());
    runtime->check(update(made, keys.data(), values.data(), keys.size()));
  }

  // NVIDIA's backend has numbers where onnxruntime has words; either may be given.
  static std::string in_words(const std::string& key, const std::string& text) {
    static const std::map<std::string, std::vector<std::string>> kWords{
        {"cudnn_conv_algo_search", {"EXHAUSTIVE", "HEURISTIC", "DEFAULT"}},
        {"arena_extend_strategy", {"kNextPowerOfTwo", "kSameAsRequested"}},
        {"do_copy_in_default_stream", {"0", "1"}},
    };
    auto known = kWords.find(key);
    if (known == kWords.end()) return text;
    for (size_t number = 0; number < known->second.size(); ++number) {
      if (text == std::to_string(number) || text == known->second[number]) return known->second[number];
    }
    refuse(key + "='" + text + "' in config.pbtxt: give 0 to " + std::to_string(known->second.size() - 1));
  }

  static void add_tensorrt(Options& options, const std::string& key, const std::string& text) {
    static const std::map<std::string, std::string> kNames{
        {"max_workspace_size_bytes", "trt_max_workspace_size"},
        {"int8_calibration_table_name", "trt_int8_calibration_table_name"},
        {"int8_use_native_calibration_table", "trt_int8_use_native_calibration_table"},
    };
    static const std::map<std::string, std::string> kPrecisions{
        {"FP32", ""}, {"FP16", "trt_fp16_enable"}, {"BF16", "trt_bf16_enable"}, {"INT8", "trt_int8_enable"}};
    std::string value = text == "true" ? "1" : text == "false" ? "0" : text;
    if (key == "precision_mode") {
      std::string upper = text;
      std::transform(upper.begin(), upper.end(), upper.begin(), [](unsigned char one) { return std::toupper(one); });
      auto known = kPrecisions.find(upper);
      if (known == kPrecisions.end()) {
        refuse("precision_mode='" + text + "' in config.pbtxt: give FP32, FP16, BF16 or INT8");
      }
      if (!known->second.empty()) options[known->second] = "1";
    } else if (auto known = kNames.find(key); known != kNames.end()) {
      options[known->second] = value;
    } else if (key.rfind("trt_", 0) == 0) {
      options[key] = value;
    } else {
      refuse("gpu_execution_accelerator tensorrt in config.pbtxt: no parameter '" + key + "'");
    }
  }

  static bool is_in_fp32(const Options& options) {
    for (const char* key : {"trt_fp16_enable", "trt_bf16_enable", "trt_int8_enable"}) {
      if (auto found = options.find(key); found != options.end() && found->second == "1") return false;
    }
    return true;
  }

  void require_known_accelerators() const {
    for (const Json& one : accelerators("gpu").items) {
      const std::string& name = one["name"].text;
      if (name != "cuda" && name != "tensorrt") {
        refuse("gpu_execution_accelerator '" + name + "' in config.pbtxt: give cuda or tensorrt");
      }
    }
    std::vector<std::string> names;
    for (const Json& one : accelerators("cpu").items) {
      names.push_back(one["name"].text);
    }
    if (!names.empty()) {
      refuse(
          "cpu_execution_accelerator " + listed(names) +
          " in config.pbtxt: the embedded server has none; remove it");
    }
  }
};

std::string configured(const std::vector<Described>& tensors, bool batches) {
  std::string text;
  for (const Described& tensor : tensors) {
    std::string dims;
    for (size_t axis = batches ? 1 : 0; axis < tensor.shape.size(); ++axis) {
      dims += (dims.empty() ? "" : ",") + std::to_string(tensor.shape[axis]);
    }
    // Triton has no empty dims: one number per row is dims 1, which it takes away again.
    std::string reshape = batches && dims.empty() ? ",\"reshape\":{\"shape\":[]}" : "";
    text += (text.empty() ? "" : ",") + std::string("{\"name\":") + json_string(tensor.name) + ",\"data_type\":\"" +
            tensor.type->triton_name + "\",\"dims\":[" + (dims.empty() ? "1" : dims) + "]" + reshape + "}";
  }
  return "[" + text + "]";
}

// Give Triton what config.pbtxt leaves out, from the file: inputs, outputs, the largest batch and the batcher.
void complete(TRITONBACKEND_Model* model) {
  Configuration given(model);
  const Json& inputs = given.json["input"];
  const Json& outputs = given.json["output"];
  if (!inputs.is_empty() && !outputs.is_empty()) return;
  ort::SessionOptions* made = nullptr;
  runtime->check(runtime->api.CreateSessionOptions(&made));
  auto options = owned(made, runtime->api.ReleaseSessionOptions);
  Session session(given.path, made);

  auto is_free = [](const Described& tensor) { return tensor.has_free_first_axis(); };
  bool batches = std::all_of(session.inputs.begin(), session.inputs.end(), is_free) &&
                 std::all_of(session.outputs.begin(), session.outputs.end(), is_free);
  int64_t largest = given.max_batch_size();
  if (largest > 0 && !batches) {
    refuse(
        "max_batch_size: " + std::to_string(largest) +
        ", but the first axis of an input or output is fixed; write 0");
  }
  constexpr int64_t kDefaultMaxBatch = 4;  // where config.pbtxt does not say; NVIDIA's backend's number
  if (batches && largest == 0) largest = kDefaultMaxBatch;
  std::string text = "{\"max_batch_size\":" + std::to_string(largest) +
                     ",\"input\":" + (inputs.is_empty() ? configured(session.inputs, batches) : inputs.raw) +
                     ",\"output\":" + (outputs.is_empty() ? configured(session.outputs, batches) : outputs.raw);
  if (const Json& sequences = given.json["sequence_batching"]) {
    text += ",\"sequence_batching\":" + sequences.raw;
  } else if (const Json& dynamic = given.json["dynamic_batching"]) {
    text += ",\"dynamic_batching\":" + dynamic.raw;
  } else if (largest > 1) {
    text += ",\"dynamic_batching\":{}";
  }
  text += "}";
  TRITONSERVER_Message* message = nullptr;
  check(TRITONSERVER_MessageNewFromSerializedJson(&message, text.data(), text.size()));
  TRITONSERVER_Error* error = TRITONBACKEND_ModelSetConfig(model, 1, message);
  TRITONSERVER_MessageDelete(message);
  check(error);
}

// One version of a model: what its instances have in common.
struct Model {
  std::mutex mutex;
  std::shared_ptr<const Session> session;  // where the instances share one
};

// A buffer for a batch's input, aligned as onnxruntime's own are, that grows to the largest batch met.
class Buffer {
 public:
  char* of_size(size_t bytes) {
    if (bytes > capacity_) {
      constexpr size_t kAlignment = 64;
      size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
      memory_.reset();
      capacity_ = 0;
      memory_.reset(static_cast<char*>(std::aligned_alloc(kAlignment, rounded)));
      if (memory_ == nullptr) throw std::bad_alloc();
      capacity_ = rounded;
    }
    return memory_.get();
  }

 private:
  struct Free {
    void operator()(char* memory) const { std::free(memory); }
  };
  std::unique_ptr<char, Free> memory_ = nullptr;
  size_t capacity_ = 0;
};

// An input as a request brings it.
struct Sent {
  TRITONBACKEND_Input* input = nullptr;  // null: an optional one that is missing
  const ElementType* type = nullptr;
  std::vector<int64_t> shape;
  size_t bytes = 0;
  uint32_t num_buffers = 0;
};

// A request that is to be computed.
struct Call {
  TRITONBACKEND_Request* request;
  std::vector<Sent> inputs;  // in the order of Instance::inputs
  std::vector<bool> wanted;  // of Instance::outputs
  int64_t num_rows = 1;      // along the batch axis

  bool fits(const Call& other) const {
    for (size_t place = 0; place < inputs.size(); ++place) {
      const Sent &ours = inputs[place], &theirs = other.inputs[place];
      if ((ours.input == nullptr) != (theirs.input == nullptr)) return false;
      if (ours.shape.size() != theirs.shape.size()) return false;
      if (!ours.shape.empty() && !std::equal(ours.shape.begin() + 1, ours.shape.end(), theirs.shape.begin() + 1)) {
        return false;
      }
    }
    return true;
  }
};

using Group = std::vector<Call*>;

uint64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

struct Times {
  uint64_t begun = 0, compute_begun = 0, compute_ended = 0;
};

// Make the exception that is being handled into Triton's error.
TRITONSERVER_Error* current_error() {
  try {
    throw;
  } catch (const Failure& failure) {
    return TRITONSERVER_ErrorNew(failure.code, failure.what());
  } catch (const std::exception& error) {
    return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INTERNAL, error.what());
  } catch (...) {
    return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INTERNAL, "an unknown exception");
  }
}

// Of a call whose failure changes nothing any more.
void drop(TRITONSERVER_Error* error) {
  if (error != nullptr) TRITONSERVER_ErrorDelete(error);
}

class Instance {
 public:
  Instance(TRITONBACKEND_ModelInstance* handle, TRITONBACKEND_Model* of, Model& model)
      : handle_(handle), options_(nullptr, nullptr) {
    Configuration configuration(of);
    TRITONSERVER_InstanceGroupKind kind;
    int32_t device = 0;
    check(TRITONBACKEND_ModelInstanceKind(handle, &kind));
    check(TRITONBACKEND_ModelInstanceDeviceId(handle, &device));
    const int gpu = kind == TRITONSERVER_INSTANCEGROUPKIND_GPU ? device : -1;
    options_ = configuration.run_options();
    batches_ = configuration.max_batch_size() > 0;
    {
      std::lock_guard<std::mutex> alone(model.mutex);
      if (gpu < 0) session_ = model.session;
      if (session_ == nullptr) {
        session_ = opened(configuration, gpu);
        if (configuration.shares_a_session(gpu)) model.session = session_;
      }
    }
    for (const Json& tensor : configuration.json["input"].items) {
      const Described& described = named(tensor["name"].text, session_->inputs, "input", configuration);
      inputs_.push_back({described, tensor["optional"].text == "true"});
    }
    for (const Json& tensor : configuration.json["output"].items) {
      outputs_.push_back(named(tensor["name"].text, session_->outputs, "output", configuration));
    }
    buffers_.resize(inputs_.size());
    try_warm_up(configuration);
  }

  // Answer the requests; those that fit together are computed together.
  void execute(TRITONBACKEND_Request** requests, uint32_t count) {
    Times times;
    times.begun = now_ns();
    std::vector<Call> calls;
    calls.reserve(count);
    for (uint32_t place = 0; place < count; ++place) {
      try {
        bool is_cancelled = false;
        check(TRITONBACKEND_RequestIsCancelled(requests[place], &is_cancelled));
        if (is_cancelled) throw Failure(TRITONSERVER_ERROR_CANCELLED, "the client cancelled the request");
        calls.push_back(read(requests[place]));
      } catch (...) {
        fail(requests[place]);
      }
    }
    // Triton joins requests of different shapes where the configuration has dims of -1.
    std::vector<Group> groups;
    for (Call& call : calls) {
      auto fits = [&](const Group& group) { return batches_ && group.front()->fits(call); };
      auto group = std::find_if(groups.begin(), groups.end(), fits);
      if (group == groups.end()) {
        groups.push_back({&call});
      } else {
        group->push_back(&call);
      }
    }
    for (const Group& group : groups) answer(group, times);
    for (uint32_t place = 0; place < count; ++place) {
      drop(TRITONBACKEND_RequestRelease(requests[place], TRITONSERVER_REQUEST_RELEASE_ALL));
    }
  }

 private:
  struct Input {
    Described described;
    bool optional;
  };

  // A file's session; once more without the engines that were kept, where it cannot be made with them.
  static std::shared_ptr<const Session> opened(const Configuration& configuration, int gpu) {
    try {
      return std::make_shared<Session>(configuration.path, configuration.session_options(gpu).get());
    } catch (const Failure&) {
      if (!engine_cache::forget(configuration.tensorrt_options(gpu))) throw;
    }
    return std::make_shared<Session>(configuration.path, configuration.session_options(gpu).get());
  }

  static const Described& named(
      const std::string& name, const std::vector<Described>& tensors, const char* what, const Configuration& from) {
    std::vector<std::string> known;
    for (const Described& tensor : tensors) {
      if (tensor.name == name) return tensor;
      known.push_back(tensor.name);
    }
    refuse(std::string("config.pbtxt names ") + what + " ['" + name + "'], but " + from.path + " has " + listed(known));
  }

  // Run the zeros that Triton warms this up with: it may not survive a failure of its own, and survives this one.
  // Other data cannot be known here; resx loads no model with them.
  void try_warm_up(const Configuration& configuration) {
    for (const Json& sample : configuration.json["model_warmup"].items) {
      const Json& tensors = sample["inputs"];
      auto is_zero = [](const Json& tensor) { return tensor["zero_data"].text == "true"; };
      if (!std::all_of(tensors.items.begin(), tensors.items.end(), is_zero)) continue;
      int64_t rows = batches_ ? std::max<int64_t>(1, sample["batch_size"].integer()) : 1;
      try {
        run_zeros(tensors, rows);
      } catch (const std::exception& error) {
        refuse(std::string("its warm-up fails: ") + error.what() + "; take model_warmup out of config.pbtxt");
      }
    }
  }

  void run_zeros(const Json& tensors, int64_t rows) const {
    const ort::Api& api = runtime->api;
    std::vector<std::vector<char>> zeros;
    std::vector<ort::Owned<ort::Value>> held;
    std::vector<const ort::Value*> inputs;
    std::vector<const char*> input_names, output_names;
    for (const Input& input : inputs_) {
      const Json& tensor = tensors[input.described.name];
      if (!tensor) continue;
      std::vector<int64_t> shape;
      if (batches_) shape.push_back(rows);
      for (const Json& size : tensor["dims"].items) shape.push_back(size.integer());
      size_t bytes = input.described.type->bytes;
      for (int64_t size : shape) {
        if (size < 0 || __builtin_mul_overflow(bytes, static_cast<size_t>(size), &bytes)) {
          refuse("input '" + input.described.name + "' has a shape that no memory holds");
        }
      }
      zeros.emplace_back(std::max<size_t>(1, bytes), 0);
      ort::Value* made = nullptr;
      runtime->check(api.CreateTensorWithDataAsOrtValue(
          runtime->cpu.get(), zeros.back().data(), bytes, shape.data(), shape.size(), input.described.type->ort,
          &made));
      held.push_back(owned(made, api.ReleaseValue));
      inputs.push_back(made);
      input_names.push_back(input.described.name.c_str());
    }
    for (const Described& output : outputs_) output_names.push_back(output.name.c_str());
    std::vector<ort::Value*> values(output_names.size(), nullptr);
    ort::Status* status = api.Run(
        session_->get(), options_.get(), input_names.data(), inputs.data(), inputs.size(), output_names.data(),
        output_names.size(), values.data());
    std::vector<Result> results;
    for (size_t place = 0; place < values.size(); ++place) {
      results.push_back({owned(values[place], api.ReleaseValue), &outputs_[place]});
    }
    runtime->check(status);
    for (Result& result : results) describe(result, batches_ ? rows : 0, false);
  }

  Call read(TRITONBACKEND_Request* request) const {
    Call call{request, std::vector<Sent>(inputs_.size()), std::vector<bool>(outputs_.size(), false)};
    bool is_first = true;
    for (size_t place = 0; place < inputs_.size(); ++place) {
      const std::string& name = inputs_[place].described.name;
      Sent& sent = call.inputs[place];
      if (TRITONSERVER_Error* missing = TRITONBACKEND_RequestInput(request, name.c_str(), &sent.input)) {
        TRITONSERVER_ErrorDelete(missing);
        sent.input = nullptr;
        if (inputs_[place].optional) continue;
        refuse("input '" + name + "' is missing");
      }
      TRITONSERVER_DataType type;
      const int64_t* shape = nullptr;
      uint32_t num_dims = 0;
      uint64_t bytes = 0;
      check(TRITONBACKEND_InputProperties(sent.input, nullptr, &type, &shape, &num_dims, &bytes, &sent.num_buffers));
      sent.type = &type_of(type, name);
      if (!inputs_[place].described.shape.empty()) sent.shape.assign(shape, shape + num_dims);
      sent.bytes = sent.type->bytes;
      for (int64_t size : sent.shape) {
        if (size < 0 || __builtin_mul_overflow(sent.bytes, static_cast<size_t>(size), &sent.bytes)) {
          refuse("input '" + name + "' has a shape that no memory holds");
        }
      }
      if (sent.bytes != bytes) {
        refuse(
            "input '" + name + "' has " + std::to_string(bytes) + " bytes, and its shape needs " +
            std::to_string(sent.bytes));
      }
      if (batches_ && (sent.shape.empty() || (!is_first && sent.shape[0] != call.num_rows))) {
        refuse("input '" + name + "' has another number of rows than the input before it");
      }
      if (batches_) call.num_rows = sent.shape[0];
      is_first = false;
    }
    uint32_t count = 0;
    check(TRITONBACKEND_RequestOutputCount(request, &count));
    for (uint32_t index = 0; index < count; ++index) {
      const char* name = nullptr;
      check(TRITONBACKEND_RequestOutputName(request, index, &name));
      for (size_t place = 0; place < outputs_.size(); ++place) {
        if (outputs_[place].name == name) call.wanted[place] = true;
      }
    }
    return call;
  }

  // Compute the calls in one run and send their responses.
  void answer(const Group& group, Times times) {
    std::vector<Result> results;
    try {
      results = run(group, times);
    } catch (...) {
      if (group.size() == 1) {
        fail(group.front()->request);
      } else {
        // One request's fault must not fail the batch that Triton happened to put it in.
        for (Call* call : group) answer({call}, times);
      }
      return;
    }
    int64_t row = 0;
    std::vector<Call*> answered;
    for (Call* call : group) {
      try {
        respond(*call, results, row);
        answered.push_back(call);
      } catch (...) {
        fail(call->request);
      }
      row += call->num_rows;
    }
    uint64_t ended = now_ns();
    for (Call* call : answered) {
      drop(TRITONBACKEND_ModelInstanceReportStatistics(
          handle_, call->request, true, times.begun, times.compute_begun, times.compute_ended, ended));
    }
    drop(TRITONBACKEND_ModelInstanceReportBatchStatistics(
        handle_, row, times.begun, times.compute_begun, times.compute_ended, ended));
  }

  // An output of a run.
  struct Result {
    ort::Owned<ort::Value> value;
    const Described* output = nullptr;  // null where nobody asked for it
    const char* data = nullptr;
    const ElementType* type = nullptr;
    std::vector<int64_t> shape = {};
    bool is_shared = false;  // by several calls, each of which has its rows
    size_t row_bytes = 0;    // of an entry along the batch axis; of the whole where it is not shared
  };

  // Run the session once over all calls; return the outputs that any of them asked for, by their place, null others.
  std::vector<Result> run(const Group& group, Times& times) {
    const ort::Api& api = runtime->api;
    std::vector<ort::Owned<ort::Value>> held;
    std::vector<const ort::Value*> inputs;
    std::vector<const char*> input_names, output_names;
    for (size_t place = 0; place < inputs_.size(); ++place) {
      if (group.front()->inputs[place].input == nullptr) continue;
      held.push_back(joined(group, place));
      inputs.push_back(held.back().get());
      input_names.push_back(inputs_[place].described.name.c_str());
    }
    std::vector<Result> results;
    for (size_t place = 0; place < outputs_.size(); ++place) {
      results.push_back({owned<ort::Value>(nullptr, api.ReleaseValue)});
      if (std::any_of(group.begin(), group.end(), [&](Call* call) { return call->wanted[place]; })) {
        results.back().output = &outputs_[place];
        output_names.push_back(outputs_[place].name.c_str());
      }
    }
    std::vector<ort::Value*> values(output_names.size(), nullptr);
    times.compute_begun = now_ns();
    ort::Status* status = api.Run(
        session_->get(), options_.get(), input_names.data(), inputs.data(), inputs.size(), output_names.data(),
        output_names.size(), values.data());
    times.compute_ended = now_ns();
    auto value = values.begin();
    for (Result& result : results) {
      if (result.output != nullptr) result.value.reset(*value++);
    }
    runtime->check(status);

    int64_t num_rows = 0;
    for (Call* call : group) num_rows += call->num_rows;
    for (Result& result : results) {
      if (result.output != nullptr) describe(result, batches_ ? num_rows : 0, group.size() > 1);
    }
    return results;
  }

  // The calls' tensors of one input, one behind the other.
  ort::Owned<ort::Value> joined(const Group& group, size_t place) {
    const Sent& first = group.front()->inputs[place];
    std::vector<int64_t> shape = first.shape;
    size_t bytes = 0;
    for (Call* call : group) bytes += call->inputs[place].bytes;
    if (batches_) {
      shape[0] = 0;
      for (Call* call : group) shape[0] += call->num_rows;
    }
    char* data = buffers_[place].of_size(std::max<size_t>(1, bytes));
    char* end = data;
    for (Call* call : group) {
      const Sent& sent = call->inputs[place];
      char* limit = end + sent.bytes;
      for (uint32_t index = 0; index < sent.num_buffers; ++index) {
        const void* part = nullptr;
        uint64_t size = 0;
        TRITONSERVER_MemoryType memory = TRITONSERVER_MEMORY_CPU;
        int64_t memory_id = 0;
        check(TRITONBACKEND_InputBuffer(sent.input, index, &part, &size, &memory, &memory_id));
        if (memory == TRITONSERVER_MEMORY_GPU || size > static_cast<size_t>(limit - end)) {
          refuse("input '" + inputs_[place].described.name + "' came in memory that this backend cannot read");
        }
        if (size > 0) std::memcpy(end, part, size);
        end += size;
      }
      if (end != limit) refuse("input '" + inputs_[place].described.name + "' is shorter than it said");
    }
    ort::Value* made = nullptr;
    runtime->check(runtime->api.CreateTensorWithDataAsOrtValue(
        runtime->cpu.get(), data, bytes, shape.data(), shape.size(), first.type->ort, &made));
    return owned(made, runtime->api.ReleaseValue);
  }

  // Learn shape, type and place of an output. `num_rows` must be its first axis; 0: it need not have one.
  void describe(Result& result, int64_t num_rows, bool is_shared) const {
    const ort::Api& api = runtime->api;
    ort::TensorInfo* made = nullptr;
    runtime->check(api.GetTensorTypeAndShape(result.value.get(), &made));
    auto info = owned(made, api.ReleaseTensorTypeAndShapeInfo);
    int element = 0;
    size_t num_dims = 0;
    runtime->check(api.GetTensorElementType(made, &element));
    runtime->check(api.GetDimensionsCount(made, &num_dims));
    result.shape.resize(num_dims);
    runtime->check(api.GetDimensions(made, result.shape.data(), num_dims));
    result.type = &type_of(element, result.output->name);
    if (num_rows > 0 && (num_dims == 0 || result.shape[0] != num_rows)) {
      std::string shape;
      for (int64_t size : result.shape) shape += (shape.empty() ? "" : ", ") + std::to_string(size);
      refuse(
          "output '" + result.output->name + "' of shape [" + shape + "] for " + std::to_string(num_rows) +
          " rows of input");
    }
    result.is_shared = is_shared;
    result.row_bytes = std::accumulate(
        result.shape.begin() + result.is_shared, result.shape.end(), result.type->bytes, std::multiplies<size_t>());
    void* data = nullptr;
    runtime->check(api.GetTensorMutableData(result.value.get(), &data));
    result.data = static_cast<const char*>(data);
    // A tensor of no axes has no dims in config.pbtxt; it is [1] there.
    if (num_dims == 0) result.shape.push_back(1);
  }

  // Send the call its rows, from `row` on, of each output that it asked for.
  void respond(const Call& call, const std::vector<Result>& results, int64_t row) const {
    TRITONBACKEND_Response* made = nullptr;
    check(TRITONBACKEND_ResponseNew(&made, call.request));
    std::unique_ptr<TRITONBACKEND_Response, TRITONSERVER_Error* (*)(TRITONBACKEND_Response*)> response(
        made, TRITONBACKEND_ResponseDelete);
    for (size_t place = 0; place < results.size(); ++place) {
      const Result& result = results[place];
      if (!call.wanted[place]) continue;
      std::vector<int64_t> shape = result.shape;
      size_t bytes = result.row_bytes, begin = 0;
      if (result.is_shared) {
        shape[0] = call.num_rows;
        bytes = result.row_bytes * call.num_rows;
        begin = result.row_bytes * row;
      }
      TRITONBACKEND_Output* output = nullptr;
      check(TRITONBACKEND_ResponseOutput(
          made, &output, result.output->name.c_str(), result.type->triton, shape.data(),
          static_cast<uint32_t>(shape.size())));
      void* buffer = nullptr;
      TRITONSERVER_MemoryType memory = TRITONSERVER_MEMORY_CPU;
      int64_t memory_id = 0;
      check(TRITONBACKEND_OutputBuffer(output, &buffer, bytes, &memory, &memory_id));
      if (memory == TRITONSERVER_MEMORY_GPU) {
        throw Failure(TRITONSERVER_ERROR_UNSUPPORTED, "outputs in GPU memory were asked for, and there is no GPU");
      }
      if (bytes > 0) std::memcpy(buffer, result.data + begin, bytes);
    }
    check(TRITONBACKEND_ResponseSend(response.release(), TRITONSERVER_RESPONSE_COMPLETE_FINAL, nullptr));
  }

  // Answer a request with the exception that is being handled.
  void fail(TRITONBACKEND_Request* request) const {
    TRITONSERVER_Error* error = current_error();
    TRITONBACKEND_Response* response = nullptr;
    TRITONSERVER_Error* none = TRITONBACKEND_ResponseNew(&response, request);
    if (none == nullptr) drop(TRITONBACKEND_ResponseSend(response, TRITONSERVER_RESPONSE_COMPLETE_FINAL, error));
    drop(none);
    TRITONSERVER_ErrorDelete(error);
    drop(TRITONBACKEND_ModelInstanceReportStatistics(handle_, request, false, 0, 0, 0, 0));
  }

  TRITONBACKEND_ModelInstance* handle_;
  std::shared_ptr<const Session> session_;
  ort::Owned<ort::RunOptions> options_;
  bool batches_ = false;
  std::vector<Input> inputs_;
  std::vector<Described> outputs_;
  std::vector<Buffer> buffers_;  // of the inputs
};

// Run an entry point's body; what it throws becomes the error that Triton shows.
template <class Body>
TRITONSERVER_Error* guarded(Body body) {
  try {
    body();
    return nullptr;
  } catch (...) {
    return current_error();
  }
}

// What an entry point stored with its handle; null where it failed before that, as Triton ends those too.
template <class State, class Handle>
State* state(TRITONSERVER_Error* (*get)(Handle*, void**), Handle* handle) {
  void* state = nullptr;
  check(get(handle, &state));
  return static_cast<State*>(state);
}

}  // namespace

#define EXPORTED extern "C" __attribute__((visibility("default"))) TRITONSERVER_Error*

EXPORTED TRITONBACKEND_Initialize(TRITONBACKEND_Backend* backend) {
  return guarded([&] {
    uint32_t major = 0, minor = 0;
    check(TRITONBACKEND_ApiVersion(&major, &minor));
    if (major != TRITONBACKEND_API_MAJOR) {
      throw Failure(TRITONSERVER_ERROR_UNSUPPORTED, "Triton's backend API is " + std::to_string(major) + ", not 1");
    }
    TRITONSERVER_Message* message = nullptr;
    check(TRITONBACKEND_BackendConfig(backend, &message));
    const char* text = nullptr;
    size_t size = 0;
    check(TRITONSERVER_MessageSerializeToJson(message, &text, &size));
    std::string library = JsonReader::read({text, size})["cmdline"]["library"].text;
    if (library.empty()) refuse("--backend-config=onnxruntime,library=FILE is missing: onnxruntime's library");
    runtime = std::make_unique<Runtime>(library);
  });
}

EXPORTED TRITONBACKEND_Finalize(TRITONBACKEND_Backend*) {
  runtime.reset();
  return nullptr;
}

EXPORTED TRITONBACKEND_ModelInitialize(TRITONBACKEND_Model* model) {
  return guarded([&] {
    bool wanted = false;
    check(TRITONBACKEND_ModelAutoCompleteConfig(model, &wanted));
    if (wanted) complete(model);
    auto made = std::make_unique<Model>();
    check(TRITONBACKEND_ModelSetState(model, made.get()));
    made.release();
  });
}

EXPORTED TRITONBACKEND_ModelFinalize(TRITONBACKEND_Model* model) {
  return guarded([&] { delete state<Model>(TRITONBACKEND_ModelState, model); });
}

EXPORTED TRITONBACKEND_ModelInstanceInitialize(TRITONBACKEND_ModelInstance* instance) {
  return guarded([&] {
    TRITONBACKEND_Model* model = nullptr;
    check(TRITONBACKEND_ModelInstanceModel(instance, &model));
    auto made = std::make_unique<Instance>(instance, model, *state<Model>(TRITONBACKEND_ModelState, model));
    check(TRITONBACKEND_ModelInstanceSetState(instance, made.get()));
    made.release();
  });
}

EXPORTED TRITONBACKEND_ModelInstanceFinalize(TRITONBACKEND_ModelInstance* instance) {
  return guarded([&] { delete state<Instance>(TRITONBACKEND_ModelInstanceState, instance); });
}

EXPORTED TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request** requests, uint32_t count) {
  Instance* of = nullptr;
  // Before this succeeds the requests are Triton's; afterwards each of them gets an answer and is released.
  TRITONSERVER_Error* error = guarded([&] { of = state<Instance>(TRITONBACKEND_ModelInstanceState, instance); });
  if (error == nullptr) of->execute(requests, count);
  return error;
}
