// Decides about an image (binary PPM, without comments): decide moleflow.onnx image.ppm
#include <onnxruntime_cxx_api.h>

#include <fstream>
#include <iostream>
#include <sstream>
#include <vector>

std::string line_of(const Ort::ModelMetadata& about, const char* key, int64_t number) {
  Ort::AllocatorWithDefaultOptions allocator;
  std::istringstream lines(about.LookupCustomMetadataMapAllocated(key, allocator).get());
  std::string line;
  for (int64_t i = 0; i <= number; ++i) std::getline(lines, line);
  return line;
}

int main(int count, char** arguments) {
  if (count != 3) return std::cerr << "usage: decide MODEL IMAGE\n", 2;
  std::ifstream file(arguments[2], std::ios::binary);
  std::string format;
  int64_t width = 0, height = 0, brightest = 0;
  file >> format >> width >> height >> brightest;
  std::vector<uint8_t> pixels(height * width * 3);
  file.ignore().read(reinterpret_cast<char*>(pixels.data()), pixels.size());
  if (!file || format != "P6" || brightest != 255) return std::cerr << "not a PPM image\n", 2;

  Ort::Env environment;
  Ort::Session session(environment, arguments[1], Ort::SessionOptions());
  const int64_t shape[] = {1, height, width, 3};
  auto memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeCPU);
  auto image = Ort::Value::CreateTensor(memory, pixels.data(), pixels.size(), shape, 4);
  const char *input = "image", *outputs[] = {"product", "label", "score"};
  auto found = session.Run(Ort::RunOptions(), &input, &image, 1, outputs, 3);
  auto about = session.GetModelMetadata();
  std::cout << line_of(about, "moleflow.products", *found[0].GetTensorData<int64_t>()) << ' '
            << line_of(about, "moleflow.labels", *found[1].GetTensorData<int64_t>()) << ' '
            << *found[2].GetTensorData<float>() << '\n';
}
