// Where onnxruntime's TensorRT provider keeps its engines: what engine_cache.py does, with the same folders and names.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace engine_cache {

namespace fs = std::filesystem;
using Options = std::map<std::string, std::string>;

// SHA-256 (FIPS 180-4).
class Sha256 {
 public:
  void update(const void* data, size_t size) {
    const auto* bytes = static_cast<const uint8_t*>(data);
    total_ += size;
    while (size > 0) {
      size_t part = std::min(size, block_.size() - filled_);
      std::memcpy(block_.data() + filled_, bytes, part);
      filled_ += part, bytes += part, size -= part;
      if (filled_ == block_.size()) compress();
    }
  }

  std::array<uint8_t, 32> digest() {
    uint64_t bits = total_ * 8;
    const uint8_t one = 0x80, zero = 0;
    update(&one, 1);
    while (filled_ != 56) update(&zero, 1);
    std::array<uint8_t, 8> length;
    for (int place = 0; place < 8; ++place) length[place] = static_cast<uint8_t>(bits >> (56 - 8 * place));
    update(length.data(), length.size());
    std::array<uint8_t, 32> whole;
    for (int place = 0; place < 32; ++place) whole[place] = static_cast<uint8_t>(state_[place / 4] >> (24 - place % 4 * 8));
    return whole;
  }

 private:
  static uint32_t rotated(uint32_t word, int by) { return word >> by | word << (32 - by); }

  void compress() {
    static constexpr uint32_t kRound[64] = {
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
        0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
        0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
        0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
        0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
        0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
        0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
    uint32_t words[64];
    for (int place = 0; place < 16; ++place) {
      const uint8_t* four = block_.data() + 4 * place;
      words[place] = uint32_t{four[0]} << 24 | uint32_t{four[1]} << 16 | uint32_t{four[2]} << 8 | four[3];
    }
    for (int place = 16; place < 64; ++place) {
      uint32_t early = words[place - 15], late = words[place - 2];
      words[place] = words[place - 16] + words[place - 7] +
                     (rotated(early, 7) ^ rotated(early, 18) ^ early >> 3) +
                     (rotated(late, 17) ^ rotated(late, 19) ^ late >> 10);
    }
    auto [a, b, c, d, e, f, g, h] = state_;
    for (int place = 0; place < 64; ++place) {
      uint32_t first = h + (rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25)) + ((e & f) ^ (~e & g)) +
                       kRound[place] + words[place];
      uint32_t second = (rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      h = g, g = f, f = e, e = d + first, d = c, c = b, b = a, a = first + second;
    }
    const uint32_t added[8] = {a, b, c, d, e, f, g, h};
    for (int place = 0; place < 8; ++place) state_[place] += added[place];
    filled_ = 0;
  }

  std::array<uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<uint8_t, 64> block_{};
  size_t filled_ = 0;
  uint64_t total_ = 0;
};

inline std::array<uint8_t, 32> digest_of(const fs::path& file) {
  std::ifstream stream(file, std::ios::binary);
  std::vector<char> part(1 << 20);
  Sha256 digest;
  while (stream) {
    stream.read(part.data(), static_cast<std::streamsize>(part.size()));
    digest.update(part.data(), static_cast<size_t>(stream.gcount()));
  }
  if (!stream.eof()) throw std::runtime_error(file.string() + " cannot be read");
  return digest.digest();
}

// A name for a model file with the files beside it, which may hold its weights.
inline std::string key_of(const fs::path& model) {
  std::vector<fs::path> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(model.parent_path())) {
    if (entry.is_regular_file() && entry.path().filename() != "card.json") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  Sha256 whole;
  for (const fs::path& file : files) {
    std::string name = file.filename().string();
    whole.update(name.c_str(), name.size() + 1);  // with the zero at its end
    auto digest = digest_of(file);
    whole.update(digest.data(), digest.size());
  }
  std::string key;
  auto digest = whole.digest();
  for (size_t place = 0; place < 16; ++place) {
    key += "0123456789abcdef"[digest[place] >> 4];
    key += "0123456789abcdef"[digest[place] & 15];
  }
  return key;
}

// The folder for a GPU, as CUDA numbers them; empty: nothing is kept.
inline fs::path folder_for(int gpu) {
  const char* told = std::getenv("RESX_TENSORRT_CACHE");
  std::string folders = told == nullptr ? "" : told;
  for (; gpu > 0; --gpu) {
    size_t colon = folders.find(':');
    folders = colon == std::string::npos ? "" : folders.substr(colon + 1);
  }
  return folders.substr(0, folders.find(':'));
}

// Add the folders for what config.pbtxt tells TensorRT to keep; they are made.
inline void place(Options& options, const fs::path& model, const fs::path& folder) {
  for (const char* what : {"engine", "timing"}) {
    std::string enabled = std::string("trt_") + what + "_cache_enable", path = std::string("trt_") + what + "_cache_path";
    auto told = options.find(enabled);
    if (told == options.end() || told->second != "1" || options.count(path)) continue;
    if (folder.empty()) {
      told->second = "0";
      continue;
    }
    fs::path own = std::string(what) == "engine" ? folder / key_of(model) : folder;
    if (fs::create_directories(own)) fs::permissions(own, fs::perms::owner_all);
    options[path] = own.string();
  }
}

// Delete what was kept, as a server that was killed can have left half of it; say whether there was anything.
inline bool forget(const Options& options) {
  bool found = false;
  for (const char* what : {"engine", "timing"}) {
    auto path = options.find(std::string("trt_") + what + "_cache_path");
    std::error_code ignored;
    if (path == options.end() || !fs::path(path->second).is_absolute()) continue;
    for (const fs::directory_entry& entry : fs::directory_iterator(path->second, ignored)) {
      if (std::string(what) == "timing" && entry.path().extension() != ".timing") continue;
      found = fs::remove_all(entry.path(), ignored) > 0 || found;
    }
  }
  return found;
}

}  // namespace engine_cache
