// What a policy in C needs of a standard library. There is no other, and no WASI.
#ifndef ARQON_POLICY_RUNTIME_H
#define ARQON_POLICY_RUNTIME_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// NULL where the binding's memory is used up.
void *malloc(size_t size);
void *realloc(void *ptr, size_t size);
void free(void *ptr);
// A trap: the message is blocked and the instance is replaced.
_Noreturn void abort(void);

void *memcpy(void *to, const void *from, size_t size);
void *memmove(void *to, const void *from, size_t size);
void *memset(void *to, int byte, size_t size);
int memcmp(const void *a, const void *b, size_t size);
size_t strlen(const char *text);

#ifdef __cplusplus
}
#endif
#endif
