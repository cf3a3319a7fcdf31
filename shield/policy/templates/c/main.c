// POLICY_NAME: blocks messages that hold a word of the configuration. Words are separated by commas or line ends; capitals
// of ASCII do not matter.
//
// Strings and lists are pairs of `ptr` and `len`, not ended by a zero. What you are given is yours to free (or to keep);
// what you give away is freed by the glue in policy.c, so it must come from malloc, or policy_string_dup.
#include "policy.h"
#include "runtime.h"

#define MAX_WORDS 64

static policy_list_u8_t words[MAX_WORDS];
static size_t count;

static uint8_t small(uint8_t byte) { return byte >= 'A' && byte <= 'Z' ? byte + ('a' - 'A') : byte; }

static bool is_between(uint8_t byte) { return byte == ',' || byte == '\n' || byte == '\r'; }

// Called once for each instance. `config` stays: the words point into it.
bool exports_policy_configure(policy_list_u8_t *config, policy_string_t *err) {
  count = 0;
  for (size_t at = 0; at < config->len;) {
    size_t start = at;
    while (at < config->len && !is_between(config->ptr[at])) at++;
    size_t end = at++;
    while (start < end && config->ptr[start] == ' ') start++;
    while (end > start && config->ptr[end - 1] == ' ') end--;
    if (start == end) continue;
    if (count == MAX_WORDS) {
      policy_string_dup(err, "more than 64 words");
      return false;
    }
    for (size_t i = start; i < end; i++) config->ptr[i] = small(config->ptr[i]);
    words[count++] = (policy_list_u8_t){config->ptr + start, end - start};
  }
  if (count == 0) {
    policy_string_dup(err, "no words: give them separated by commas");
    return false;
  }
  return true;
}

static bool holds(const policy_list_u8_t *text, const policy_list_u8_t *word) {
  for (size_t at = 0; at + word->len <= text->len; at++) {
    size_t same = 0;
    while (same < word->len && small(text->ptr[at + same]) == word->ptr[same]) same++;
    if (same == word->len) return true;
  }
  return false;
}

// Called for each message.
void exports_policy_on_message(policy_message_t *message, policy_verdict_t *verdict) {
  verdict->tag = ARQON_POLICY_TYPES_VERDICT_ALLOW;
  for (size_t i = 0; i < count; i++) {
    if (holds(&message->payload, &words[i])) {
      verdict->tag = ARQON_POLICY_TYPES_VERDICT_BLOCK;
      policy_string_dup(&verdict->val.block, "a word of the list");
      break;
    }
  }
  policy_message_free(message);
}
