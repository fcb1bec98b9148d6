#include "pipeline_impl.h"

#include <string.h>

#include "an10922_impl.h"
#include "tam1_impl.h"

enum { CHUNK = 128, COUNTER_SIZE = 4, MAC_SIZE = 8, SUFFIX = 6 };

_Static_assert(CHUNK % INDEX_BLOCK == 0, "a chunk is looked up in whole blocks");

/* Everything about one chunk, small enough for the first-level cache. `tags` counts the reads whose evidence is worth
 * verifying; the arrays after it are in the order of their keys, `rows` says which read each one is. */
struct work {
    struct index_slot *slots[CHUNK];
    uint8_t outcome[CHUNK]; /* enum tam1_outcome of each read */
    size_t tags;
    uint8_t rows[CHUNK];
    uint8_t padded[CHUNK * AN10922_PADDED];
    uint8_t keys[CHUNK * AES_BLOCK], in[CHUNK * AES_BLOCK], out[CHUNK * AES_BLOCK];
};

int pipeline_evidence_size(int scheme) {
    switch (scheme) {
    case SCHEME_NONE:
        return 0;
    case SCHEME_TAM1:
        return TAM1_RESPONSE;
    case SCHEME_COUNTER_CMAC:
        return COUNTER_SIZE + MAC_SIZE;
    default:
        return -1;
    }
}

static uint32_t counter_of(const uint8_t *evidence) {
    return (uint32_t)evidence[0] | (uint32_t)evidence[1] << 8 | (uint32_t)evidence[2] << 16 |
           (uint32_t)evidence[3] << 24;
}

static int all_zero(const uint8_t *bytes, size_t size) {
    unsigned any = 0;
    for (size_t i = 0; i < size; i++)
        any |= bytes[i];
    return any == 0;
}

/* What is wrong with a read before its evidence is looked at, or 0. Nothing here is secret. */
static inline uint8_t judge_outside(const struct pipeline_batch *b, const struct work *w, size_t keys, size_t row,
                                    size_t i, size_t evidence_size) {
    if (!b->known_antennas[b->antennas[row]] || b->channels[row] >= b->channel_count ||
        all_zero(b->identities + row * b->width, b->width))
        return VERDICT_MALFORMED;
    const struct index_slot *slot = w->slots[i];
    if (!slot)
        return VERDICT_UNKNOWN_TAG;
    if (all_zero(b->evidence + row * evidence_size, evidence_size))
        return VERDICT_NO_EVIDENCE; /* NONE too: its evidence has no bytes */
    if (slot->scheme != b->scheme || slot->key >= keys)
        return VERDICT_BAD_EVIDENCE;
    return 0;
}

/* Sorts the reads without a verdict by their key (stable), so that each key's tags are derived together. `first` takes
 * where each key's tags begin. */
static void order_by_key(const struct pipeline_batch *b, struct work *w, size_t start, size_t m, size_t keys,
                         uint16_t *first) {
    memset(first, 0, (keys + 1) * sizeof *first);
    for (size_t i = 0; i < m; i++)
        if (!b->verdicts[start + i])
            first[w->slots[i]->key + 1]++;
    for (size_t key = 0; key < keys; key++)
        first[key + 1] = (uint16_t)(first[key + 1] + first[key]);
    w->tags = first[keys];
    uint16_t next[ARENA_CAPACITY_MAX];
    memcpy(next, first, keys * sizeof *next);
    for (size_t i = 0; i < m; i++)
        if (!b->verdicts[start + i])
            w->rows[next[w->slots[i]->key]++] = (uint8_t)i;
}

/* The keys of the tags [from, to), which share one master. */
static void derive(const struct pipeline_batch *b, const struct aes_kernel *aes, struct work *w,
                   const struct arena_entry *entry, size_t start, size_t from, size_t to) {
    /* All rows differ in the identity alone: the padded block is made once, with zeros where the identity goes. */
    uint8_t input[INDEX_IDENTITY + SUFFIX] = {0}, model[AN10922_PADDED];
    const uint8_t suffix[SUFFIX] = {(uint8_t)(entry->realm >> 24), (uint8_t)(entry->realm >> 16),
                                    (uint8_t)(entry->realm >> 8), (uint8_t)entry->realm, 'J', 'K'};
    memcpy(input + b->width, suffix, sizeof suffix);
    an10922_pad(&entry->master, input, b->width + SUFFIX, model);
    for (size_t t = from; t < to; t++) {
        const uint8_t *identity = b->identities + (start + w->rows[t]) * b->width;
        uint8_t *padded = w->padded + t * AN10922_PADDED;
        memcpy(padded, model, sizeof model);
        if (b->width == INDEX_IDENTITY) {
            /* The last byte falls into the second half, where the subkey has been added. */
            memcpy(padded + 1, identity, INDEX_IDENTITY - 1);
            padded[INDEX_IDENTITY] ^= identity[INDEX_IDENTITY - 1];
        } else if (b->width == 12) {
            memcpy(padded + 1, identity, 12);
        } else {
            memcpy(padded + 1, identity, b->width);
        }
    }
    aes->cbc_two(&entry->master, w->padded + from * AN10922_PADDED, w->keys + from * AES_BLOCK, to - from);
    cpu_wipe(model, sizeof model);
}

static void verify_tam1(const struct pipeline_batch *b, const struct aes_kernel *aes, struct work *w, size_t start) {
    for (size_t t = 0; t < w->tags; t++)
        memcpy(w->in + t * AES_BLOCK, b->evidence + (start + w->rows[t]) * TAM1_RESPONSE, AES_BLOCK);
    aes->decrypt(w->keys, w->in, w->out, w->tags);
    for (size_t t = 0; t < w->tags; t++)
        w->outcome[w->rows[t]] = tam1_judge(w->out + t * AES_BLOCK, b->challenge);
}

static void verify_counter(const struct pipeline_batch *b, const struct aes_kernel *aes, struct work *w, size_t start) {
    static const uint8_t label[12] = {'J', 'K', 'C', 'M', 'A', 'C', '0', '1', 0, 0, 0, 0};
    for (size_t t = 0; t < w->tags; t++) {
        const uint8_t *evidence = b->evidence + (start + w->rows[t]) * (COUNTER_SIZE + MAC_SIZE);
        memcpy(w->in + t * AES_BLOCK, label, sizeof label);
        memcpy(w->in + t * AES_BLOCK + sizeof label, evidence, COUNTER_SIZE);
    }
    aes->cmac(w->keys, w->in, AES_BLOCK, w->out, w->tags);
    for (size_t t = 0; t < w->tags; t++) {
        const uint8_t *evidence = b->evidence + (start + w->rows[t]) * (COUNTER_SIZE + MAC_SIZE);
        w->outcome[w->rows[t]] = cpu_equal(w->out + t * AES_BLOCK, evidence + COUNTER_SIZE, MAC_SIZE);
    }
}

/* The verdict on a read whose evidence was verified; advances the tag's counter. */
static inline uint8_t judge_evidence(struct pipeline_batch *b, struct index_slot *slot, uint8_t outcome,
                                     const uint8_t *evidence) {
    if (outcome == TAM1_FORGED)
        return VERDICT_BAD_EVIDENCE;
    if (outcome == TAM1_OTHER_CHALLENGE)
        return VERDICT_REPLAYED;
    if (b->scheme == SCHEME_COUNTER_CMAC) {
        const uint32_t counter = counter_of(evidence);
        if (!index_advance(slot, counter))
            return VERDICT_REPLAYED;
        b->advanced_numbers[b->advanced] = slot->number;
        b->advanced_counters[b->advanced++] = counter;
    }
    return slot->state == INDEX_ACTIVE ? VERDICT_GENUINE : VERDICT_NOT_ACTIVE;
}

static void verify_chunk(struct pipeline_batch *b, struct work *w, const struct arena_entry *entries, size_t keys,
                         size_t start, size_t m) {
    const struct aes_kernel *aes = aes_kernel_of(b->kernel);
    const size_t evidence_size = (size_t)pipeline_evidence_size(b->scheme);
    uint16_t first[ARENA_CAPACITY_MAX + 1];
    for (size_t at = 0; at < m; at += INDEX_BLOCK)
        index_find_block(b->index, b->identities + (start + at) * b->width, b->width,
                         m - at < INDEX_BLOCK ? m - at : INDEX_BLOCK, w->slots + at);
    for (size_t i = 0; i < m; i++)
        b->verdicts[start + i] = judge_outside(b, w, keys, start + i, i, evidence_size);
    order_by_key(b, w, start, m, keys, first);
    for (size_t key = 0; key < keys; key++)
        if (first[key] < first[key + 1])
            derive(b, aes, w, &entries[key], start, first[key], first[key + 1]);
    if (b->scheme == SCHEME_TAM1)
        verify_tam1(b, aes, w, start);
    else if (b->scheme == SCHEME_COUNTER_CMAC)
        verify_counter(b, aes, w, start);
    for (size_t i = 0; i < m; i++) {
        uint8_t *verdict = &b->verdicts[start + i];
        if (!*verdict)
            *verdict = judge_evidence(b, w->slots[i], w->outcome[i], b->evidence + (start + i) * evidence_size);
        const int placed = *verdict != VERDICT_MALFORMED && w->slots[i];
        b->numbers[start + i] = placed ? w->slots[i]->number : INDEX_NONE;
        b->counts[*verdict]++;
    }
}

int pipeline_verify(struct pipeline_batch *batch) {
    const struct arena_entry *entries;
    const int keys = arena_enter(batch->arena, &entries);
    if (keys < 0)
        return keys;
    struct work w;
    memset(&w, 0, sizeof w);
    memset(batch->counts, 0, sizeof batch->counts);
    batch->advanced = 0;
    index_read(batch->index);
    for (size_t start = 0; start < batch->n; start += CHUNK) {
        const size_t rest = batch->n - start;
        verify_chunk(batch, &w, entries, (size_t)keys, start, rest < CHUNK ? rest : CHUNK);
    }
    index_leave(batch->index);
    arena_leave(batch->arena);
    cpu_wipe(&w, sizeof w);
    return 0;
}
