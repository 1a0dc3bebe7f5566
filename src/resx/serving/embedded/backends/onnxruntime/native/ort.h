// onnxruntime's C API, as much of it as this backend calls.
//
// OrtApi is a table of functions that only ever grows at its end, so a function's place in it is as good as its name
// (onnxruntime_c_api.h). The Python wheel carries the library and not the header; here are the places.
#pragma once

#include <dlfcn.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>

namespace ort {

struct Allocator;
struct CudaOptions;
struct Env;
struct MemoryInfo;
struct RunOptions;
struct Session;
struct SessionOptions;
struct Status;
struct TensorInfo;
struct TensorRtOptions;
struct TypeInfo;
struct Value;

constexpr uint32_t kApiVersion = 14;  // of onnxruntime 1.14; later libraries still give it
constexpr int kInvalidArgument = 2;   // ORT_INVALID_ARGUMENT
constexpr int kLogErrors = 3;         // ORT_LOGGING_LEVEL_ERROR
constexpr int kArenaAllocator = 1, kDefaultMemory = 0;
constexpr int kTensor = 1;            // ONNX_TYPE_TENSOR

class Api {
 public:
  // Load the library; throws std::runtime_error where there is none, or one too old.
  explicit Api(const std::string& library) {
    void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) throw std::runtime_error("onnxruntime's library: " + std::string(dlerror()));
    struct Base {
      const void* (*GetApi)(uint32_t version);
      const char* (*GetVersionString)();
    };
    auto get_base = reinterpret_cast<const Base* (*)()>(dlsym(handle, "OrtGetApiBase"));
    if (get_base == nullptr) throw std::runtime_error(library + " is not onnxruntime's library");
    table_ = static_cast<void* const*>(get_base()->GetApi(kApiVersion));
    if (table_ == nullptr) throw std::runtime_error(library + " is older than onnxruntime 1.14");
    if (std::sscanf(get_base()->GetVersionString(), "%d.%d", &major, &minor) != 2) {
      throw std::runtime_error(library + " does not say its version");
    }
    bind(GetErrorCode, 1), bind(GetErrorMessage, 2), bind(CreateEnv, 3), bind(CreateSession, 7), bind(Run, 9);
    bind(CreateSessionOptions, 10), bind(SetSessionExecutionMode, 13), bind(DisableMemPattern, 17);
    bind(DisableCpuMemArena, 19), bind(SetSessionLogSeverityLevel, 22), bind(SetSessionGraphOptimizationLevel, 23);
    bind(SetIntraOpNumThreads, 24), bind(SetInterOpNumThreads, 25), bind(SessionGetInputCount, 30);
    bind(SessionGetOutputCount, 31), bind(SessionGetInputTypeInfo, 33), bind(SessionGetOutputTypeInfo, 34);
    bind(SessionGetInputName, 36), bind(SessionGetOutputName, 37), bind(CreateRunOptions, 39);
    bind(CreateTensorWithDataAsOrtValue, 49), bind(GetTensorMutableData, 51), bind(CastTypeInfoToTensorInfo, 55);
    bind(GetOnnxTypeFromTypeInfo, 56), bind(GetTensorElementType, 60), bind(GetDimensionsCount, 61);
    bind(GetDimensions, 62), bind(GetTensorTypeAndShape, 65), bind(CreateCpuMemoryInfo, 69), bind(AllocatorFree, 76);
    bind(GetAllocatorWithDefaultOptions, 78), bind(ReleaseEnv, 92), bind(ReleaseStatus, 93);
    bind(ReleaseMemoryInfo, 94), bind(ReleaseSession, 95), bind(ReleaseValue, 96), bind(ReleaseRunOptions, 97);
    bind(ReleaseTypeInfo, 98), bind(ReleaseTensorTypeAndShapeInfo, 99), bind(ReleaseSessionOptions, 100);
    bind(AddSessionConfigEntry, 130), bind(AddRunConfigEntry, 165), bind(AppendTensorRt, 170);
    bind(CreateTensorRtOptions, 171), bind(UpdateTensorRtOptions, 172), bind(ReleaseTensorRtOptions, 174);
    bind(AppendCuda, 204), bind(CreateCudaOptions, 205), bind(UpdateCudaOptions, 206), bind(ReleaseCudaOptions, 208);
  }

  int major = 0, minor = 0;  // of the library's version

  int (*GetErrorCode)(const Status*);
  const char* (*GetErrorMessage)(const Status*);
  Status* (*CreateEnv)(int log_level, const char* log_id, Env**);
  Status* (*CreateSession)(const Env*, const char* path, const SessionOptions*, Session**);
  Status* (*Run)(
      Session*, const RunOptions*, const char* const* input_names, const Value* const* inputs, size_t num_inputs,
      const char* const* output_names, size_t num_outputs, Value** outputs);
  Status* (*CreateSessionOptions)(SessionOptions**);
  Status* (*SetSessionExecutionMode)(SessionOptions*, int parallel);
  Status* (*DisableMemPattern)(SessionOptions*);
  Status* (*DisableCpuMemArena)(SessionOptions*);
  Status* (*SetSessionLogSeverityLevel)(SessionOptions*, int level);
  Status* (*SetSessionGraphOptimizationLevel)(SessionOptions*, int level);
  Status* (*SetIntraOpNumThreads)(SessionOptions*, int);
  Status* (*SetInterOpNumThreads)(SessionOptions*, int);
  Status* (*SessionGetInputCount)(const Session*, size_t*);
  Status* (*SessionGetOutputCount)(const Session*, size_t*);
  Status* (*SessionGetInputTypeInfo)(const Session*, size_t index, TypeInfo**);
  Status* (*SessionGetOutputTypeInfo)(const Session*, size_t index, TypeInfo**);
  Status* (*SessionGetInputName)(const Session*, size_t index, Allocator*, char**);
  Status* (*SessionGetOutputName)(const Session*, size_t index, Allocator*, char**);
  Status* (*CreateRunOptions)(RunOptions**);
  Status* (*CreateTensorWithDataAsOrtValue)(
      const MemoryInfo*, void* data, size_t byte_size, const int64_t* shape, size_t num_dims, int element_type,
      Value**);
  Status* (*GetTensorMutableData)(Value*, void**);
  Status* (*CastTypeInfoToTensorInfo)(const TypeInfo*, const TensorInfo**);
  Status* (*GetOnnxTypeFromTypeInfo)(const TypeInfo*, int*);
  Status* (*GetTensorElementType)(const TensorInfo*, int*);
  Status* (*GetDimensionsCount)(const TensorInfo*, size_t*);
  Status* (*GetDimensions)(const TensorInfo*, int64_t*, size_t);
  Status* (*GetTensorTypeAndShape)(const Value*, TensorInfo**);
  Status* (*CreateCpuMemoryInfo)(int allocator, int memory, MemoryInfo**);
  Status* (*AllocatorFree)(Allocator*, void*);
  Status* (*GetAllocatorWithDefaultOptions)(Allocator**);
  void (*ReleaseEnv)(Env*);
  void (*ReleaseStatus)(Status*);
  void (*ReleaseMemoryInfo)(MemoryInfo*);
  void (*ReleaseSession)(Session*);
  void (*ReleaseValue)(Value*);
  void (*ReleaseRunOptions)(RunOptions*);
  void (*ReleaseTypeInfo)(TypeInfo*);
  void (*ReleaseTensorTypeAndShapeInfo)(TensorInfo*);
  void (*ReleaseSessionOptions)(SessionOptions*);
  Status* (*AddSessionConfigEntry)(SessionOptions*, const char* key, const char* value);
  Status* (*AddRunConfigEntry)(RunOptions*, const char* key, const char* value);
  Status* (*AppendTensorRt)(SessionOptions*, const TensorRtOptions*);
  Status* (*CreateTensorRtOptions)(TensorRtOptions**);
  Status* (*UpdateTensorRtOptions)(TensorRtOptions*, const char* const* keys, const char* const* values, size_t count);
  void (*ReleaseTensorRtOptions)(TensorRtOptions*);
  Status* (*AppendCuda)(SessionOptions*, const CudaOptions*);
  Status* (*CreateCudaOptions)(CudaOptions**);
  Status* (*UpdateCudaOptions)(CudaOptions*, const char* const* keys, const char* const* values, size_t count);
  void (*ReleaseCudaOptions)(CudaOptions*);

 private:
  template <class Function>
  void bind(Function& function, size_t place) const {
    function = reinterpret_cast<Function>(table_[place]);
  }

  void* const* table_;
};

// Owns an object of the library, which a function of its table releases.
template <class T>
using Owned = std::unique_ptr<T, void (*)(T*)>;

}  // namespace ort
