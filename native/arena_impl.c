#define _GNU_SOURCE
#include "arena_impl.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/prctl.h>
#endif

/* Lives in the locked pages: a forked child sees zeros, so it has no keys and verifies nothing. */
struct vault {
    size_t count;
    struct arena_entry entries[];
};

struct arena {
    pthread_rwlock_t lock;
    uint8_t *mapping; /* a page without access, the vault, a page without access */
    size_t mapped, page, capacity;
    int closed;
};

static struct vault *vault_of(const struct arena *arena)
{
    return (struct vault *)(void *)(arena->mapping + arena->page);
}

static int map_vault(struct arena *arena)
{
    arena->page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t need = sizeof(struct vault) + arena->capacity * sizeof(struct arena_entry);
    const size_t inner = (need + arena->page - 1) / arena->page * arena->page;
    arena->mapped = inner + 2 * arena->page;
    arena->mapping = mmap(NULL, arena->mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (arena->mapping == MAP_FAILED) {
        arena->mapping = NULL;
        return -1;
    }
    uint8_t *const start = arena->mapping + arena->page;
    if (mprotect(start, inner, PROT_READ | PROT_WRITE) || mlock(start, inner))
        return -1;
#if defined(MADV_DONTDUMP)
    if (madvise(start, inner, MADV_DONTDUMP))
        return -1;
#endif
#if defined(MADV_WIPEONFORK)
    if (madvise(start, inner, MADV_WIPEONFORK))
        return -1;
#endif
    return 0;
}

struct arena *arena_new(size_t capacity)
{
    if (capacity < 1 || capacity > ARENA_CAPACITY_MAX) {
        errno = EINVAL;
        return NULL;
    }
    struct arena *arena = calloc(1, sizeof *arena);
    if (!arena)
        return NULL;
    arena->capacity = capacity;
    const int failed = pthread_rwlock_init(&arena->lock, NULL);
    if (failed) {
        free(arena);
        errno = failed;
        return NULL;
    }
    if (map_vault(arena)) {
        const int kept = errno;
        arena_free(arena);
        errno = kept;
        return NULL;
    }
    return arena;
}

static void wipe(struct arena *arena)
{
    struct vault *vault = vault_of(arena);
    cpu_wipe(vault->entries, arena->capacity * sizeof(struct arena_entry));
    vault->count = 0;
}

void arena_close(struct arena *arena)
{
    pthread_rwlock_wrlock(&arena->lock);
    if (!arena->closed)
        wipe(arena);
    arena->closed = 1;
    pthread_rwlock_unlock(&arena->lock);
}

void arena_free(struct arena *arena)
{
    if (!arena)
        return;
    if (arena->mapping) {
        /* Where the pages could not be locked they may be without access too, and nothing was ever
         * in them. */
        const size_t inner = arena->mapped - 2 * arena->page;
        if (mprotect(arena->mapping + arena->page, inner, PROT_READ | PROT_WRITE) == 0)
            wipe(arena);
        munmap(arena->mapping, arena->mapped);
    }
    pthread_rwlock_destroy(&arena->lock);
    free(arena);
}

static int find(const struct vault *vault, uint32_t realm, uint32_t version)
{
    for (size_t i = 0; i < vault->count; i++)
        if (vault->entries[i].realm == realm && vault->entries[i].version == version)
            return (int)i;
    return ARENA_NOT_FOUND;
}

static int add(struct arena *arena, uint32_t realm, uint32_t version, const uint8_t *key)
{
    if (arena->closed)
        return ARENA_CLOSED;
    struct vault *vault = vault_of(arena);
    const int known = find(vault, realm, version);
    if (known >= 0) {
        const uint8_t same = cpu_equal(vault->entries[known].master.round_keys[0], key, AES_BLOCK);
        cpu_make_public(&same, sizeof same); /* the caller is told */
        return same ? known : ARENA_CONFLICT;
    }
    if (vault->count == arena->capacity)
        return ARENA_FULL;
    struct arena_entry *entry = &vault->entries[vault->count];
    entry->realm = realm;
    entry->version = version;
    aes_master_init(&entry->master, key, AES_BLOCK);
    return (int)vault->count++;
}

int arena_add(struct arena *arena, uint32_t realm, uint32_t version, const uint8_t *key)
{
    pthread_rwlock_wrlock(&arena->lock);
    const int number = add(arena, realm, version, key);
    pthread_rwlock_unlock(&arena->lock);
    return number;
}

int arena_find(struct arena *arena, uint32_t realm, uint32_t version)
{
    pthread_rwlock_rdlock(&arena->lock);
    const int number = arena->closed ? ARENA_CLOSED : find(vault_of(arena), realm, version);
    pthread_rwlock_unlock(&arena->lock);
    return number;
}

int arena_count(struct arena *arena)
{
    pthread_rwlock_rdlock(&arena->lock);
    const int count = arena->closed ? ARENA_CLOSED : (int)vault_of(arena)->count;
    pthread_rwlock_unlock(&arena->lock);
    return count;
}

int arena_enter(struct arena *arena, const struct arena_entry **entries)
{
    pthread_rwlock_rdlock(&arena->lock);
    if (arena->closed) {
        pthread_rwlock_unlock(&arena->lock);
        return ARENA_CLOSED;
    }
    *entries = vault_of(arena)->entries;
    return (int)vault_of(arena)->count;
}

void arena_leave(struct arena *arena)
{
    pthread_rwlock_unlock(&arena->lock);
}

int arena_disable_core_dumps(void)
{
    const struct rlimit none = {0, 0};
    if (setrlimit(RLIMIT_CORE, &none))
        return -1;
#if defined(__linux__)
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0))
        return -1;
#endif
    return 0;
}
