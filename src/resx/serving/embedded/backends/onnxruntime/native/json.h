// Reads the JSON in which Triton writes a configuration; what is not JSON raises std::runtime_error.
#pragma once

#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

struct Json {
  std::string text;                // of a string, number or literal, without quotes and escapes
  std::string raw;                 // the value as it was written, to be written again
  std::vector<std::string> names;  // of an object's members, in the order of `items`
  std::vector<Json> items;         // of an object or array

  // An object's member; null where there is none.
  const Json& operator[](std::string_view name) const {
    static const Json null;
    for (size_t index = 0; index < names.size(); ++index) {
      if (names[index] == name) return items[index];
    }
    return null;
  }

  explicit operator bool() const { return !raw.empty(); }
  int64_t integer() const { return text.empty() ? 0 : std::stoll(text); }

  // Triton leaves empty lists out, or writes them as [].
  bool is_empty() const { return items.empty(); }
};

class JsonReader {
 public:
  static Json read(std::string_view text) {
    JsonReader reader(text);
    Json value = reader.value(0);
    if (reader.peek() != '\0') reader.fail();
    return value;
  }

 private:
  explicit JsonReader(std::string_view text) : text_(text) {}

  Json value(int depth) {
    if (depth > 64) fail();
    Json value;
    char first = peek();
    size_t begin = at_;
    if (first == '{' || first == '[') {
      ++at_;
      char end = first == '{' ? '}' : ']';
      if (!take(end)) {
        do {
          if (first == '{') {
            if (peek() != '"') fail();
            value.names.push_back(string());
            if (!take(':')) fail();
          }
          value.items.push_back(this->value(depth + 1));
        } while (take(','));
        if (!take(end)) fail();
      }
    } else if (first == '"') {
      value.text = string();
    } else {
      while (at_ < text_.size() && std::string_view("+-.0123456789Eaeflnrstu").find(text_[at_]) != text_.npos) ++at_;
      if (at_ == begin) fail();
      value.text = text_.substr(begin, at_ - begin);
    }
    value.raw = text_.substr(begin, at_ - begin);
    return value;
  }

  std::string string() {
    std::string result;
    for (++at_; at_ < text_.size() && text_[at_] != '"'; ++at_) {
      if (text_[at_] != '\\') {
        result += text_[at_];
        continue;
      }
      if (++at_ == text_.size()) fail();
      static constexpr std::string_view kEscapes = "\"\\/bfnrt", kMeanings = "\"\\/\b\f\n\r\t";
      if (size_t place = kEscapes.find(text_[at_]); place != kEscapes.npos) {
        result += kMeanings[place];
      } else if (text_[at_] == 'u' && at_ + 4 < text_.size()) {
        append_utf8(result, std::stoul(std::string(text_.substr(at_ + 1, 4)), nullptr, 16));
        at_ += 4;
      } else {
        fail();
      }
    }
    if (at_ == text_.size()) fail();
    ++at_;
    return result;
  }

  // Of the basic plane; Triton writes other characters as they are.
  static void append_utf8(std::string& text, unsigned long code) {
    if (code < 0x80) {
      text += static_cast<char>(code);
    } else if (code < 0x800) {
      text += static_cast<char>(0xC0 | code >> 6);
      text += static_cast<char>(0x80 | (code & 0x3F));
    } else {
      text += static_cast<char>(0xE0 | code >> 12);
      text += static_cast<char>(0x80 | (code >> 6 & 0x3F));
      text += static_cast<char>(0x80 | (code & 0x3F));
    }
  }

  // The next character that is not a space; 0 at the end.
  char peek() {
    while (at_ < text_.size() && std::string_view(" \t\r\n").find(text_[at_]) != std::string_view::npos) ++at_;
    return at_ < text_.size() ? text_[at_] : '\0';
  }

  bool take(char expected) {
    bool there = peek() == expected;
    at_ += there;
    return there;
  }

  [[noreturn]] void fail() const {
    throw std::runtime_error("a configuration that is not JSON, at its character " + std::to_string(at_));
  }

  std::string_view text_;
  size_t at_ = 0;
};

inline std::string json_string(std::string_view text) {
  std::string result = "\"";
  for (char one : text) {
    if (one == '"' || one == '\\') {
      result += '\\', result += one;
    } else if (static_cast<unsigned char>(one) < 0x20) {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, "\\u%04x", one);
      result += escaped;
    } else {
      result += one;
    }
  }
  return result + '"';
}
