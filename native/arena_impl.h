/* A locked arena for tag masters: pages that are never swapped, dumped or handed to a forked child.
 *
 * A key is known by a number, 0.. in order of adding. Each holds what AN10922 needs, for every
 * kernel. Nothing here gives key bytes back. Every function may be called from any thread; readers
 * hold the arena with arena_enter.
 */
#ifndef NATIVE_ARENA_IMPL_H
#define NATIVE_ARENA_IMPL_H

#include <stddef.h>
#include <stdint.h>

#include "aes_impl.h"

enum { ARENA_CAPACITY_MAX = 256 };
enum arena_error {
    ARENA_FULL = -1,      /* no room for another key */
    ARENA_CONFLICT = -2,  /* this realm and version hold another key */
    ARENA_CLOSED = -3,    /* wiped by arena_close */
    ARENA_NOT_FOUND = -4, /* no key of this realm and version */
};

struct arena_entry {
    struct aes_master master;
    uint32_t realm, version;
};

struct arena;

/* A new arena for 1..256 keys, or NULL with errno set: by mmap, or by mlock when the limit on
 * locked memory refuses. The caller owns it and frees it with arena_free. */
struct arena *arena_new(size_t capacity);

/* Wipes, unlocks, unmaps. Nobody may be inside. NULL is allowed. */
void arena_free(struct arena *arena);

/* Wipes all keys and refuses what comes after; waits for those inside. Again: no effect. */
void arena_close(struct arena *arena);

/* Copies in a key of 16 bytes (the caller wipes its own). The key's number, or ARENA_FULL,
 * _CONFLICT, _CLOSED. The same key again gets the same number; keys are compared in constant time.
 */
int arena_add(struct arena *arena, uint32_t realm, uint32_t version, const uint8_t *key);

/* The key's number, or ARENA_NOT_FOUND, ARENA_CLOSED. */
int arena_find(struct arena *arena, uint32_t realm, uint32_t version);

/* Keys held, or ARENA_CLOSED. */
int arena_count(struct arena *arena);

/* Between these two the entries stay as they are: *entries points to the returned number of them.
 * ARENA_CLOSED: nothing was entered and nothing is to be left. */
int arena_enter(struct arena *arena, const struct arena_entry **entries);
void arena_leave(struct arena *arena);

/* No core files of this process, and no ptrace by its own user. 0, or -1 with errno set. */
int arena_disable_core_dumps(void);

#endif
