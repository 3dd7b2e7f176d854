// Runs a model.so once on a device without Python: raw arrays in, raw arrays out. Linked to libtvm_runtime and
// libtvm_ffi of TVM's wheel.
//
//   tvm_host model.so OUT_PREFIX THREADS IN.bin:float32:1x3x32x32 ...
//
// Output i goes to OUT_PREFIX.i.bin, and a line "i float32 1x10" to stdout.

#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/dtype.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <cstdlib>
#include <fstream>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

namespace ffi = tvm::ffi;
using ffi::Tensor;

constexpr DLDevice kCpu{kDLCPU, 0};
constexpr int kPooledAllocator = 2;
constexpr size_t kAlignment = 64;  // what TVM's kernels assume of every tensor

struct AlignedMemory {
  void AllocData(DLTensor* tensor) {
    tensor->data = std::aligned_alloc(kAlignment, (ffi::GetDataSize(*tensor) + kAlignment - 1) / kAlignment * kAlignment);
  }
  void FreeData(DLTensor* tensor) { std::free(tensor->data); }
};

std::vector<int64_t> ParseShape(const std::string& text) {
  std::vector<int64_t> shape;
  std::stringstream sides(text);
  for (std::string side; std::getline(sides, side, 'x');) shape.push_back(std::stoll(side));
  return shape;
}

// "IN.bin:float32:1x3x32x32"
Tensor ReadInput(const std::string& spec) {
  size_t last = spec.rfind(':');
  size_t first = last == std::string::npos ? last : spec.rfind(':', last - 1);
  if (first == std::string::npos) throw std::runtime_error(spec + " is not FILE:TYPE:SHAPE");
  std::vector<int64_t> shape = ParseShape(spec.substr(last + 1));
  DLDataType type = ffi::StringToDLDataType(spec.substr(first + 1, last - first - 1));
  Tensor tensor = Tensor::FromNDAlloc(AlignedMemory(), ffi::ShapeView(shape.data(), shape.size()), type, kCpu);
  std::ifstream file(spec.substr(0, first), std::ios::binary);
  if (!file.read(static_cast<char*>(tensor.data_ptr()), ffi::GetDataSize(tensor))) {
    throw std::runtime_error("cannot read " + spec.substr(0, first));
  }
  return tensor;
}

void WriteOutput(const Tensor& tensor, const std::string& prefix, size_t index) {
  std::ofstream file(prefix + "." + std::to_string(index) + ".bin", std::ios::binary);
  file.write(static_cast<const char*>(tensor.data_ptr()), ffi::GetDataSize(tensor));
  if (!file) throw std::runtime_error("cannot write to " + prefix);
  std::cout << index << ' ' << std::string(ffi::DLDataTypeToString(tensor.dtype())) << ' ';
  for (size_t axis = 0; axis < tensor.shape().size(); ++axis) {
    std::cout << (axis ? "x" : "") << tensor.shape()[axis];
  }
  std::cout << '\n';
}

void Run(const std::vector<std::string>& arguments) {
  ffi::Module library = ffi::Module::LoadFromFile(arguments[0]);
  ffi::Module machine = library->GetFunction("vm_load_executable").value()().cast<ffi::Module>();
  machine->GetFunction("vm_initialization").value()(static_cast<int>(kDLCPU), 0, kPooledAllocator);
  std::vector<Tensor> inputs;
  for (size_t index = 3; index < arguments.size(); ++index) inputs.push_back(ReadInput(arguments[index]));
  std::vector<ffi::AnyView> packed(inputs.begin(), inputs.end());
  ffi::Any result;
  machine->GetFunction("main").value().CallPacked(packed.data(), packed.size(), &result);
  if (auto one = result.try_cast<Tensor>()) {
    WriteOutput(*one, arguments[1], 0);
    return;
  }
  auto several = result.cast<ffi::Array<Tensor>>();
  for (size_t index = 0; index < several.size(); ++index) WriteOutput(several[index], arguments[1], index);
}

}  // namespace

int main(int count, char** values) {
  std::vector<std::string> arguments(values + 1, values + count);
  if (arguments.size() < 4) {
    std::cerr << "usage: tvm_host model.so OUT_PREFIX THREADS IN.bin:float32:1x3x32x32 ...\n";
    return 2;
  }
  setenv("TVM_NUM_THREADS", arguments[2].c_str(), 1);
  setenv("TVM_BIND_THREADS", "0", 1);
  try {
    Run(arguments);
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
  return 0;
}
