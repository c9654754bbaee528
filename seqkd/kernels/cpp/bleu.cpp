// Smoothed sentence BLEU of whole k-best lists: the mapping of words to ids, and clipped n-gram counts.
//
// Results equal sacrebleu's to the last bit: words are separated by the same replacements in the same order, and scores are
// computed by the same operations on doubles. Calls share no state, so threads may call at the same time.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "abi.h"

namespace {

constexpr int ORDER = 4;
enum Tokenizer { NONE, MTEVAL_13A, CHARACTERS, CHINESE };
enum Smoothing { NOTHING, EXPONENTIAL, FLOOR, ADD_K };

// The bytes of the blank that begins at `at`, by the definition of Python's str.split; 0 if there is none.
inline int blank(const unsigned char* at, const unsigned char* end) {
  const unsigned char c = at[0];
  if (c < 0x80) return c == ' ' || (c >= 9 && c <= 13) || (c >= 28 && c <= 31);
  if (c == 0xC2) return end - at >= 2 && (at[1] == 0x85 || at[1] == 0xA0) ? 2 : 0;
  if (c < 0xE1 || c > 0xE3 || end - at < 3) return 0;
  if (c == 0xE1) return at[1] == 0x9A && at[2] == 0x80 ? 3 : 0;
  if (c == 0xE3) return at[1] == 0x80 && at[2] == 0x80 ? 3 : 0;
  if (at[1] == 0x80) return at[2] <= 0x8A || at[2] == 0xA8 || at[2] == 0xA9 || at[2] == 0xAF ? 3 : 0;
  return at[1] == 0x81 && at[2] == 0x9F ? 3 : 0;
}

inline bool continues(unsigned char c) { return (c & 0xC0) == 0x80; }
inline bool digit(char c) { return c >= '0' && c <= '9'; }
inline bool stop(char c) { return c == '.' || c == ','; }

void replace(std::string& text, const char* from, const char* to) {
  const size_t size = strlen(from), grown = strlen(to);
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + grown)) text.replace(at, size, to);
}

// Punctuation that is always a word of its own. The ranges of the original contain a blank, too.
struct Alone {
  bool is[256] = {};
  Alone() {
    for (const char* range : {"{~", "[`", " &", "(+", ":@", "//"})
      for (int c = range[0]; c <= range[1]; ++c) is[c] = c != ' ';
  }
};

// Letters that sacrebleu's Chinese tokenizer separates. It writes two ranges with five hex digits, which are strings of two
// characters in Python. They therefore match everything between those strings: U+2001 to U+2A6D, U+2F81 to U+2FA1.
bool chinese(uint32_t letter) {
  constexpr uint32_t ranges[][2] = {
      {0x3400, 0x4DB5}, {0x4E00, 0x9FA5}, {0x9FA6, 0x9FBB}, {0xF900, 0xFA2D}, {0xFA30, 0xFA6A}, {0xFA70, 0xFAD9},
      {0x2001, 0x2A6D}, {0x2F81, 0x2FA1}, {0xFF00, 0xFFEF}, {0x2E80, 0x2EFF}, {0x3000, 0x303F}, {0x31C0, 0x31EF},
      {0x2F00, 0x2FDF}, {0x2FF0, 0x2FFF}, {0x3100, 0x312F}, {0x31A0, 0x31BF}, {0xFE10, 0xFE1F}, {0xFE30, 0xFE4F},
      {0x2600, 0x26FF}, {0x2700, 0x27BF}, {0x3200, 0x32FF}, {0x3300, 0x33FF}};
  for (const auto& range : ranges)
    if (letter >= range[0] && letter <= range[1]) return true;
  return false;
}

// A string that grows without initialising each byte.
struct Buffer {
  std::vector<char> bytes;
  size_t size = 0;
  char* sized(size_t most) {
    if (bytes.size() < most) bytes.resize(most * 2);
    return bytes.data();
  }
};

// sacrebleu's Tokenizer13a and TokenizerZh. Their patterns distinguish ASCII characters only, so bytes can stand for
// characters.
class Mteval {
 public:
  void cut(const char* text, size_t size, bool zh, Buffer& out) {
    static const Alone alone;
    const auto* first = reinterpret_cast<const unsigned char*>(text);
    size_t end = size;  // as str.rstrip cuts it: a line feed after a dash matters
    for (;;) {
      size_t last = end;
      if (last) do --last; while (last && continues(first[last]));
      if (last == end || blank(first + last, first + end) != int(end - last)) break;
      end = last;
    }
    line.assign(text, end);
    if (zh) {
      apart();
    } else {
      restore();
    }
    char* to = a.sized(3 * line.size() + 2);
    if (!zh) *to++ = ' ';
    for (const char c : line) {
      if (!alone.is[static_cast<unsigned char>(c)]) {
        *to++ = c;
      } else {
        *to++ = ' ', *to++ = c, *to++ = ' ';
      }
    }
    if (!zh) *to++ = ' ';
    a.size = size_t(to - a.bytes.data());
    // Each of the next three consumes its match, as a regular expression does: "..." has one match, not two.
    pass(a, b, [](char x, char y) { return stop(y) && !digit(x); }, false, true);
    pass(b, a, [](char x, char y) { return stop(x) && !digit(y); }, true, false);
    pass(a, out, [](char x, char y) { return y == '-' && digit(x); }, false, true);
  }

 private:
  void restore() {
    if (line.find('<') != std::string::npos) replace(line, "<skipped>", "");
    if (line.find('\n') != std::string::npos) {
      replace(line, "-\n", "");
      replace(line, "\n", " ");
    }
    if (line.find('&') != std::string::npos) {
      replace(line, "&quot;", "\"");
      replace(line, "&amp;", "&");
      replace(line, "&lt;", "<");
      replace(line, "&gt;", ">");
    }
  }

  void apart() {
    std::string set;
    const auto* at = reinterpret_cast<const unsigned char*>(line.data());
    const auto* end = at + line.size();
    while (at < end && blank(at, end)) at += blank(at, end);
    while (at < end) {
      const unsigned char* letter = at;
      uint32_t code = *at < 0x80 ? *at : *at & (*at < 0xE0 ? 0x1F : *at < 0xF0 ? 0x0F : 0x07);
      for (++at; at < end && continues(*at); ++at) code = code << 6 | (*at & 0x3F);
      const bool alone = chinese(code);
      if (alone) set += ' ';
      set.append(reinterpret_cast<const char*>(letter), size_t(at - letter));
      if (alone) set += ' ';
    }
    line.swap(set);
  }

  // If two bytes match, insert a blank between them, and one before or after them.
  template <class Match>
  static void pass(const Buffer& in, Buffer& out, Match match, bool before, bool after) {
    const char *at = in.bytes.data(), *end = at + in.size;
    char* to = out.sized(2 * in.size + 1);
    while (at + 1 < end) {
      if (!match(at[0], at[1])) {
        *to++ = *at++;
        continue;
      }
      if (before) *to++ = ' ';
      *to++ = *at++;
      *to++ = ' ';
      *to++ = *at++;
      if (after) *to++ = ' ';
    }
    if (at < end) *to++ = *at;
    out.size = size_t(to - out.bytes.data());
  }

  std::string line;
  Buffer a, b;
};

// Numbers words in the order of their first occurrence. Words are compared, not only their hashes.
class Dictionary {
 public:
  Dictionary() : slots(1 << 12, -1) {}

  int32_t id(const char* word, size_t size) {
    const uint64_t hash = hashed(word, size);
    size_t slot = hash & (slots.size() - 1);
    for (; slots[slot] >= 0; slot = (slot + 1) & (slots.size() - 1)) {
      const Word& known = words[slots[slot]];
      if (known.hash == hash && known.size == size && !memcmp(letters.data() + known.start, word, size))
        return slots[slot];
    }
    const int32_t fresh = int32_t(words.size());
    slots[slot] = fresh;
    words.push_back({hash, letters.size(), size});
    letters.append(word, size);
    if (words.size() * 2 > slots.size()) grow();
    return fresh;
  }

 private:
  struct Word {
    uint64_t hash;
    size_t start, size;
  };

  static uint64_t hashed(const char* word, size_t size) {
    uint64_t hash = size * 0x9E3779B97F4A7C15u;
    for (; size >= 8; word += 8, size -= 8) {
      uint64_t part;
      memcpy(&part, word, 8);
      hash = (hash ^ part) * 0x9E3779B97F4A7C15u;
      hash ^= hash >> 29;
    }
    uint64_t part = 0;
    memcpy(&part, word, size);
    hash = (hash ^ part) * 0x9E3779B97F4A7C15u;
    return hash ^ hash >> 32;
  }

  void grow() {
    slots.assign(slots.size() * 4, -1);
    for (size_t i = 0; i < words.size(); ++i) {
      size_t slot = words[i].hash & (slots.size() - 1);
      while (slots[slot] >= 0) slot = (slot + 1) & (slots.size() - 1);
      slots[slot] = int32_t(i);
    }
  }

  std::vector<int32_t> slots;
  std::vector<Word> words;
  std::string letters;
};

// The n-grams of one reference as a tree: an n-gram is a word below its first n-1 words. The tree is exact: n-grams cannot
// collide.
class Reference {
 public:
  void read(const int32_t* ids, int size) {
    length = size;
    size_t capacity = 16;
    while (capacity < size_t(size) * ORDER * 2) capacity *= 2;
    keys.assign(capacity, EMPTY);
    nodes.resize(capacity);
    counts.clear();
    for (int i = 0; i < size; ++i) {
      uint64_t node = ROOT;
      for (int n = i; n < size && n < i + ORDER; ++n) {
        const size_t slot = find(node, ids[n]);
        if (keys[slot] == EMPTY) {
          keys[slot] = key(node, ids[n]);
          nodes[slot] = int32_t(counts.size());
          counts.push_back(0);
        }
        node = nodes[slot];
        ++counts[node];
      }
    }
  }

  // The clipped matches of each order.
  void match(const int32_t* ids, int size, int* correct) {
    left = counts;
    for (int n = 0; n < ORDER; ++n) correct[n] = 0;
    for (int i = 0; i < size; ++i) {
      uint64_t node = ROOT;
      for (int n = 0; n < ORDER && i + n < size; ++n) {
        const size_t slot = find(node, ids[i + n]);
        if (keys[slot] == EMPTY) break;  // no longer n-gram that begins here occurs, either
        node = nodes[slot];
        if (left[node] > 0) {
          --left[node];
          ++correct[n];
        }
      }
    }
  }

  int length = 0;

 private:
  static constexpr uint64_t ROOT = 0xFFFFFFFE, EMPTY = ~uint64_t(0);
  static uint64_t key(uint64_t node, int32_t word) { return node << 32 | uint32_t(word); }

  size_t find(uint64_t node, int32_t word) const {
    const uint64_t wanted = key(node, word), mask = keys.size() - 1;
    size_t slot = (wanted * 0x9E3779B97F4A7C15u >> 32) & mask;
    while (keys[slot] != wanted && keys[slot] != EMPTY) slot = (slot + 1) & mask;
    return slot;
  }

  std::vector<uint64_t> keys;
  std::vector<int32_t> nodes, counts, left;
};

// Python's sum of floats: plain up to 3.11, compensated (Neumaier) since 3.12.
struct Sum {
  double high = 0.0, low = 0.0;
  bool compensated;
  void add(double x) {
    const double sum = high + x;
    if (compensated) low += std::fabs(high) >= std::fabs(x) ? (high - sum) + x : (x - sum) + high;
    high = sum;
  }
  double value() const { return low != 0.0 && std::isfinite(low) ? high + low : high; }
};

double bleu(const int* found, int size, int reference, int smoothing, double value, bool effective, bool compensated) {
  if (!(found[0] || found[1] || found[2] || found[3])) return 0.0;
  double penalty = 1.0, doubled = 1.0, precisions[ORDER] = {};
  if (size < reference) penalty = std::exp(1 - double(reference) / size);
  int orders = ORDER;
  for (int n = 0; n < ORDER; ++n) {
    double correct = found[n], total = size > n ? size - n : 0;
    if (smoothing == ADD_K && n > 0) correct += value, total += value;
    if (total == 0) break;
    if (effective) orders = n + 1;
    if (correct != 0) {
      precisions[n] = 100.0 * correct / total;
    } else if (smoothing == EXPONENTIAL) {
      doubled *= 2;
      precisions[n] = 100.0 / (doubled * total);
    } else if (smoothing == FLOOR) {
      precisions[n] = 100.0 * value / total;
    }
  }
  Sum sum{0.0, 0.0, compensated};
  for (int n = 0; n < orders; ++n) sum.add(precisions[n] == 0.0 ? -9999999999.0 : std::log(precisions[n]));
  return penalty * std::exp(sum.value() / orders);
}

}  // namespace

extern "C" {

// The texts [count] are UTF-8 and lie at offsets [count + 1] in `letters`. Writes the ids of all words, one number for each
// distinct word, and the index of each text's first id into starts [count + 1]. There are no more words than bytes. Returns
// the number of ids.
int64_t seqkd_words(int tokenizer, const char* letters, const int32_t* offsets, int64_t count, int32_t* ids,
                    int64_t* starts) {
  Dictionary dictionary;
  Mteval mteval;
  Buffer cut;
  int64_t words = 0;
  for (int64_t text = 0; text < count; ++text) {
    starts[text] = words;
    const char* first = letters + offsets[text];
    size_t size = size_t(offsets[text + 1] - offsets[text]);
    if (tokenizer == MTEVAL_13A || tokenizer == CHINESE) {
      mteval.cut(first, size, tokenizer == CHINESE, cut);
      first = cut.bytes.data();
      size = cut.size;
    }
    const auto* at = reinterpret_cast<const unsigned char*>(first);
    const auto* end = at + size;
    while (at < end) {
      if (const int skipped = blank(at, end)) {
        at += skipped;
        continue;
      }
      const unsigned char* word = at;
      if (tokenizer == CHARACTERS) {
        do ++at; while (at < end && continues(*at));
      } else {
        do ++at; while (at < end && !blank(at, end));
      }
      ids[words++] = dictionary.id(reinterpret_cast<const char*>(word), size_t(at - word));
    }
  }
  starts[count] = words;
  return words;
}

// Scores the texts firsts[g] to firsts[g] + counts[g] - 1 against text references[g] for each group g. The scores of all
// groups follow one another.
void seqkd_bleu(const int32_t* ids, const int64_t* starts, int64_t groups, const int64_t* references,
                const int64_t* firsts, const int64_t* counts, int smoothing, double value, int effective,
                int compensated, double* scores) {
  Reference reference;
  for (int64_t group = 0; group < groups; ++group) {
    const int64_t text = references[group];
    reference.read(ids + starts[text], int(starts[text + 1] - starts[text]));
    for (int64_t other = firsts[group]; other < firsts[group] + counts[group]; ++other) {
      const int size = int(starts[other + 1] - starts[other]);
      int correct[ORDER];
      reference.match(ids + starts[other], size, correct);
      *scores++ = bleu(correct, size, reference.length, smoothing, value, effective, compensated);
    }
  }
}
}
