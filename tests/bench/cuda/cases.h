// SPDX-License-Identifier: MIT
// The file of cases that cases.py writes: lines of text, each array followed by its float32 values.
//   case KERNEL TITLE        TITLE without blanks
//   number NAME VALUE
//   in NAME COUNT
//   out NAME COUNT TOLERANCE FLOOR    expected; tolerance 0: equal but for the sign of zero
//   end
#ifndef TESTS_BENCH_CUDA_CASES_H_
#define TESTS_BENCH_CUDA_CASES_H_

#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

struct Array {
  std::vector<float> values;
  double tolerance = 0;  // relative
  double floor = 0;      // absolute
};

struct Case {
  std::string kernel, title;
  std::map<std::string, double> numbers;
  std::map<std::string, Array> inputs, outputs;

  double number(const std::string& name) const {
    const auto found = numbers.find(name);
    if (found == numbers.end()) throw std::runtime_error(kernel + " needs the number " + name);
    return found->second;
  }
};

inline Array read_array(std::ifstream& file, std::istringstream& words) {
  size_t count = 0;
  Array array;
  words >> count >> array.tolerance >> array.floor;
  array.values.resize(count);
  file.read(reinterpret_cast<char*>(array.values.data()), count * sizeof(float));
  if (!file) throw std::runtime_error("the file of cases is cut short");
  return array;
}

inline std::vector<Case> read_cases(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  std::vector<Case> cases;
  Case next;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string what, name;
    words >> what >> name;
    if (what == "case") {
      next = Case();
      next.kernel = name;
      words >> next.title;
    } else if (what == "number") {
      words >> next.numbers[name];
    } else if (what == "in") {
      next.inputs[name] = read_array(file, words);
    } else if (what == "out") {
      next.outputs[name] = read_array(file, words);
    } else if (what == "end") {
      cases.push_back(next);
    } else {
      throw std::runtime_error("unknown line in the file of cases: " + line);
    }
  }
  return cases;
}

#endif  // TESTS_BENCH_CUDA_CASES_H_
