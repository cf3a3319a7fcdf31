// An allocator and the few functions that compilers call by themselves.
#include "runtime.h"

#define PAGE 65536u
#define SMALLEST 4u  // 16 bytes
#define CLASSES 28u

// Blocks are powers of two with this before them; freed ones wait in a list for each size. Nothing is ever given back
// to the host, which counts the memory of an instance.
typedef union block {
  struct {
    union block *next;
    uint32_t class;
  } is;
  uint64_t aligns[2];
} block;

extern unsigned char __heap_base;
static block *freed[CLASSES];
static uintptr_t unused;
static uintptr_t end;

static uint32_t class_of(size_t size) {
  uint32_t class = SMALLEST;
  while (class < CLASSES && ((size_t)1 << class) < size) class++;
  return class;
}

static block *carve(size_t size) {
  if (unused == 0) {
    unused = ((uintptr_t)&__heap_base + 15) & ~(uintptr_t)15;
    end = (uintptr_t)__builtin_wasm_memory_size(0) * PAGE;
  }
  if (unused > end || end - unused < size) {
    size_t pages = (size + PAGE - 1) / PAGE;
    size_t before = __builtin_wasm_memory_grow(0, pages);
    if (before == (size_t)-1) return NULL;
    end = (uintptr_t)(before + pages) * PAGE;
  }
  block *made = (block *)unused;
  unused += size;
  return made;
}

void *malloc(size_t size) {
  uint32_t class = class_of(size);
  if (class >= CLASSES) return NULL;
  block *found = freed[class];
  if (found) {
    freed[class] = found->is.next;
  } else {
    found = carve(sizeof(block) + ((size_t)1 << class));
    if (!found) return NULL;
    found->is.class = class;
  }
  return found + 1;
}

void free(void *ptr) {
  if (!ptr) return;
  block *it = (block *)ptr - 1;
  it->is.next = freed[it->is.class];
  freed[it->is.class] = it;
}

void *realloc(void *ptr, size_t size) {
  if (!ptr) return malloc(size);
  size_t has = (size_t)1 << ((block *)ptr - 1)->is.class;
  if (size <= has) return ptr;
  void *larger = malloc(size);
  if (!larger) return NULL;
  memcpy(larger, ptr, has);
  free(ptr);
  return larger;
}

_Noreturn void abort(void) { __builtin_trap(); }

// A compiler would make calls of themselves out of these loops.
#define PLAIN __attribute__((no_builtin))

PLAIN void *memcpy(void *to, const void *from, size_t size) {
  unsigned char *t = to;
  const unsigned char *f = from;
  while (size--) *t++ = *f++;
  return to;
}

PLAIN void *memmove(void *to, const void *from, size_t size) {
  unsigned char *t = to;
  const unsigned char *f = from;
  if ((uintptr_t)t <= (uintptr_t)f) {
    while (size--) *t++ = *f++;
  } else {
    while (size--) t[size] = f[size];
  }
  return to;
}

PLAIN void *memset(void *to, int byte, size_t size) {
  unsigned char *t = to;
  while (size--) *t++ = (unsigned char)byte;
  return to;
}

PLAIN int memcmp(const void *a, const void *b, size_t size) {
  const unsigned char *x = a, *y = b;
  for (; size--; x++, y++) {
    if (*x != *y) return *x < *y ? -1 : 1;
  }
  return 0;
}

PLAIN size_t strlen(const char *text) {
  size_t length = 0;
  while (text[length]) length++;
  return length;
}
