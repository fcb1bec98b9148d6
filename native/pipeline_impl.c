#include "pipeline_impl.h"

#include <string.h>

#include "an10922_impl.h"
#include "cmac_impl.h"
#include "sun_impl.h"
#include "tam1_impl.h"
#include "tam2_impl.h"

enum { CHUNK = 128, COUNTER_SIZE = 4, SUFFIX = 6 };

/* Everything about one chunk, small enough for the first-level cache. `tags` counts the reads whose
 * evidence is worth verifying; the arrays after it are in the order of their keys, `rows` says
 * which read each one is. */
struct work {
    struct index_probe
        probes[2][CHUNK]; /* of this chunk and of the next, whose slots are on their way */
    struct index_slot *slots[CHUNK];
    uint8_t outcome[CHUNK]; /* enum tam1_outcome of each read */
    size_t tags;
    uint8_t rows[CHUNK];
    uint8_t padded[CHUNK * AN10922_PADDED];
    uint8_t keys[CHUNK * AES_BLOCK];
    uint8_t in[CHUNK * TAM2_RESPONSE_MAX], out[CHUNK * TAM2_RESPONSE_MAX];
};

int pipeline_evidence_size(int scheme, size_t blocks)
{
    switch (scheme) {
    case SCHEME_NONE:
        return 0;
    case SCHEME_TAM1:
        return TAM1_RESPONSE;
    case SCHEME_COUNTER_CMAC:
        return COUNTER_SIZE + 8;
    case SCHEME_COUNTER_CMAC_16:
        return COUNTER_SIZE + 16;
    case SCHEME_TAM2:
        return blocks >= 1 && blocks <= TAM2_BLOCKS_MAX ? (int)tam2_response_size(blocks) : -1;
    case SCHEME_SUN:
        return SUN_EVIDENCE;
    default:
        return -1;
    }
}

int pipeline_counts(int scheme)
{
    return scheme == SCHEME_COUNTER_CMAC || scheme == SCHEME_COUNTER_CMAC_16 ||
           scheme == SCHEME_SUN;
}

static uint32_t counter_of(int scheme, const uint8_t *evidence)
{
    const uint32_t low =
        (uint32_t)evidence[0] | (uint32_t)evidence[1] << 8 | (uint32_t)evidence[2] << 16;
    return scheme == SCHEME_SUN ? low : low | (uint32_t)evidence[3] << 24;
}

/* size 0, or 7 and more: loads of which the last may overlap. */
static inline int all_zero(const uint8_t *bytes, size_t size)
{
    uint64_t first, last;
    for (; size > 2 * sizeof first; size -= sizeof first, bytes += sizeof first) {
        memcpy(&first, bytes, sizeof first);
        if (first)
            return 0;
    }
    if (size == 0)
        return 1;
    if (size < sizeof first) {
        uint32_t head, tail;
        memcpy(&head, bytes, sizeof head);
        memcpy(&tail, bytes + size - sizeof tail, sizeof tail);
        return (head | tail) == 0;
    }
    memcpy(&first, bytes, sizeof first);
    memcpy(&last, bytes + size - sizeof last, sizeof last);
    return (first | last) == 0;
}

/* What is wrong with a read before its evidence is looked at, or 0. Nothing here is secret. */
static inline uint8_t judge_outside(const struct pipeline_batch *b, const struct work *w,
                                    size_t keys, size_t row, size_t i, size_t evidence_size)
{
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

/* Sorts the reads without a verdict by their key (stable), so that each key's tags are derived
 * together. `first` takes where each key's tags begin. */
static void order_by_key(const struct pipeline_batch *b, struct work *w, size_t start, size_t m,
                         size_t keys, uint16_t *first)
{
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

static inline void fill(const struct pipeline_batch *b, struct work *w, const uint8_t *model,
                        size_t width, size_t start, size_t from, size_t to)
{
    for (size_t t = from; t < to; t++)
        an10922_fill(model, b->identities + (start + w->rows[t]) * width, width,
                     w->padded + t * AN10922_PADDED);
}

/* The keys of the tags [from, to), which share one master. */
static void derive(const struct pipeline_batch *b, const struct aes_kernel *aes, struct work *w,
                   const struct arena_entry *entry, size_t start, size_t from, size_t to)
{
    /* All rows differ in the identity alone: the padded block is made once, with zeros where the
     * identity goes. */
    uint8_t input[INDEX_IDENTITY + SUFFIX] = {0}, model[AN10922_PADDED];
    const uint8_t suffix[SUFFIX] = {(uint8_t)(entry->realm >> 24),
                                    (uint8_t)(entry->realm >> 16),
                                    (uint8_t)(entry->realm >> 8),
                                    (uint8_t)entry->realm,
                                    'J',
                                    'K'};
    memcpy(input + b->width, suffix, sizeof suffix);
    an10922_pad(&entry->master, AN10922_128, input, b->width + SUFFIX, model);
    /* A constant width makes the copy of an identity two moves. */
    if (b->width == 12)
        fill(b, w, model, 12, start, from, to);
    else if (b->width == 8)
        fill(b, w, model, 8, start, from, to);
    else
        fill(b, w, model, b->width, start, from, to);
    aes->cbc_two(&entry->master, w->padded + from * AN10922_PADDED, w->keys + from * AES_BLOCK,
                 to - from);
    cpu_wipe(model, sizeof model);
}

static void verify_tam1(const struct pipeline_batch *b, const struct aes_kernel *aes,
                        struct work *w, size_t start)
{
    for (size_t t = 0; t < w->tags; t++)
        memcpy(w->in + t * AES_BLOCK, b->evidence + (start + w->rows[t]) * TAM1_RESPONSE,
               AES_BLOCK);
    const struct tam1_expected expected = tam1_expect(b->challenge);
    aes->decrypt(w->keys, w->in, 1, w->out, w->tags);
    for (size_t t = 0; t < w->tags; t++)
        w->outcome[w->rows[t]] = tam1_judge(w->out + t * AES_BLOCK, expected);
}

/* The data of the reads that answer this challenge go out at once: who is not GENUINE in the end
 * loses them in verify_chunk. */
static void verify_tam2(const struct pipeline_batch *b, const struct aes_kernel *aes,
                        struct work *w, size_t start)
{
    const size_t size = tam2_response_size(b->blocks), data_size = b->blocks * TAM2_BLOCK;
    const struct tam1_expected expected = tam1_expect(b->challenge);
    for (size_t t = 0; t < w->tags; t++)
        memcpy(w->in + t * size, b->evidence + (start + w->rows[t]) * size, size);
    aes->decrypt(w->keys, w->in, 1 + b->blocks, w->out, w->tags);
    for (size_t t = 0; t < w->tags; t++) {
        const uint8_t outcome = tam1_judge(w->out + t * size, expected);
        uint8_t *data = b->data + (start + w->rows[t]) * data_size;
        for (size_t at = 0; at < data_size; at += TAM2_BLOCK)
            tam2_take(w->out + t * size + TAM2_BLOCK + at, w->in + t * size + at,
                      outcome == TAM1_RIGHT, data + at);
        w->outcome[w->rows[t]] = outcome;
    }
}

/* The counters that the MACs are taken over, from where they stand `at` in each message: what is
 * read once is what was verified, whatever becomes of the evidence meanwhile. */
static inline void keep_counters(const struct pipeline_batch *b, const struct work *w, size_t start,
                                 size_t at)
{
    for (size_t t = 0; t < w->tags; t++)
        b->advanced_counters[start + w->rows[t]] =
            counter_of(b->scheme, w->in + t * AES_BLOCK + at);
}

static void verify_sun(const struct pipeline_batch *b, const struct aes_kernel *aes, struct work *w,
                       size_t start)
{
    for (size_t t = 0; t < w->tags; t++)
        sun_vector(b->identities + (start + w->rows[t]) * SUN_UID,
                   b->evidence + (start + w->rows[t]) * SUN_EVIDENCE, w->in + t * AES_BLOCK);
    keep_counters(b, w, start, AES_BLOCK - SUN_COUNTER);
    aes->cmac(w->keys, AES_BLOCK, w->in, AES_BLOCK, w->keys, w->tags);
    aes->cmac(w->keys, AES_BLOCK, w->in, 0, w->out, w->tags);
    for (size_t t = 0; t < w->tags; t++) {
        const uint8_t *evidence = b->evidence + (start + w->rows[t]) * SUN_EVIDENCE;
        uint8_t *odd = w->out + t * AES_BLOCK;
        cmac_take_odd(odd, odd);
        w->outcome[w->rows[t]] = cpu_equal(odd, evidence + SUN_COUNTER, SUN_MAC);
    }
}

/* Inline, so that the size of the MAC is a constant. */
static inline void verify_counter(const struct pipeline_batch *b, const struct aes_kernel *aes,
                                  struct work *w, size_t start, size_t mac_size)
{
    static const uint8_t label[12] = {'J', 'K', 'C', 'M', 'A', 'C', '0', '1', 0, 0, 0, 0};
    for (size_t t = 0; t < w->tags; t++) {
        const uint8_t *evidence = b->evidence + (start + w->rows[t]) * (COUNTER_SIZE + mac_size);
        memcpy(w->in + t * AES_BLOCK, label, sizeof label);
        memcpy(w->in + t * AES_BLOCK + sizeof label, evidence, COUNTER_SIZE);
    }
    keep_counters(b, w, start, sizeof label);
    aes->cmac(w->keys, AES_BLOCK, w->in, AES_BLOCK, w->out, w->tags);
    for (size_t t = 0; t < w->tags; t++) {
        const uint8_t *evidence = b->evidence + (start + w->rows[t]) * (COUNTER_SIZE + mac_size);
        w->outcome[w->rows[t]] =
            cpu_equal(w->out + t * AES_BLOCK, evidence + COUNTER_SIZE, mac_size);
    }
}

static inline uint8_t judge_state(const struct index_slot *slot)
{
    return slot->state == INDEX_ACTIVE ? VERDICT_GENUINE : VERDICT_NOT_ACTIVE;
}

/* The verdict on a read whose evidence was verified; 0 where its counter decides. */
static inline uint8_t judge_evidence(const struct index_slot *slot, uint8_t outcome, int counts)
{
    if (outcome == TAM1_FORGED)
        return VERDICT_BAD_EVIDENCE;
    if (outcome == TAM1_OTHER_CHALLENGE)
        return VERDICT_REPLAYED;
    return counts ? 0 : judge_state(slot);
}

/* Advances the counters of a whole batch in its turn and gives the verdicts that were left open.
 * The counters were kept where those that advanced go, which are no more and come no sooner. */
static void judge_counters(struct pipeline_batch *b)
{
    b->turn = index_turn_begin(b->index);
    for (size_t row = 0; row < b->n; row++) {
        if (b->verdicts[row])
            continue;
        struct index_slot *slot = index_slot_of(b->index, b->numbers[row]);
        const uint32_t counter = b->advanced_counters[row];
        if (index_advance(slot, counter)) {
            b->verdicts[row] = judge_state(slot);
            b->advanced_numbers[b->advanced] = slot->number;
            b->advanced_counters[b->advanced++] = counter;
        } else
            b->verdicts[row] = VERDICT_REPLAYED;
        b->counts[b->verdicts[row]]++;
    }
    index_turn_end(b->index);
}

static void verify_chunk(struct pipeline_batch *b, struct work *w,
                         const struct arena_entry *entries, size_t keys, size_t start, size_t m)
{
    const struct aes_kernel *aes = aes_kernel_of(b->kernel);
    const size_t evidence_size = (size_t)pipeline_evidence_size(b->scheme, b->blocks);
    const size_t data_size = b->blocks * TAM2_BLOCK;
    const int counts = pipeline_counts(b->scheme);
    uint16_t first[ARENA_CAPACITY_MAX + 1];
    index_seek_many(b->index, w->probes[start / CHUNK % 2], b->width, m, w->slots);
    for (size_t i = 0; i < m; i++)
        b->verdicts[start + i] = judge_outside(b, w, keys, start + i, i, evidence_size);
    order_by_key(b, w, start, m, keys, first);
    for (size_t key = 0; key < keys; key++)
        if (first[key] < first[key + 1])
            derive(b, aes, w, &entries[key], start, first[key], first[key + 1]);
    switch (b->scheme) {
    case SCHEME_TAM1:
        verify_tam1(b, aes, w, start);
        break;
    case SCHEME_COUNTER_CMAC:
        verify_counter(b, aes, w, start, 8);
        break;
    case SCHEME_TAM2:
        verify_tam2(b, aes, w, start);
        break;
    case SCHEME_SUN:
        verify_sun(b, aes, w, start);
        break;
    case SCHEME_COUNTER_CMAC_16:
        verify_counter(b, aes, w, start, 16);
        break;
    }
    /* The outcomes are what the verdicts tell. */
    cpu_make_public(w->outcome, sizeof w->outcome);
    for (size_t i = 0; i < m; i++) {
        uint8_t *verdict = &b->verdicts[start + i];
        if (!*verdict)
            *verdict = judge_evidence(w->slots[i], w->outcome[i], counts);
        const int placed = *verdict != VERDICT_MALFORMED && w->slots[i];
        if (data_size && *verdict != VERDICT_GENUINE)
            memset(b->data + (start + i) * data_size, 0, data_size);
        b->numbers[start + i] = placed ? w->slots[i]->number : INDEX_NONE;
        b->counts[*verdict]++;
    }
}

static size_t chunk_size(const struct pipeline_batch *b, size_t start)
{
    const size_t rest = start < b->n ? b->n - start : 0;
    return rest < CHUNK ? rest : CHUNK;
}

static void probe(const struct pipeline_batch *b, struct work *w, size_t start)
{
    const size_t size = chunk_size(b, start);
    if (size)
        index_probe_many(b->index, b->identities + start * b->width, b->width, size,
                         w->probes[start / CHUNK % 2]);
}

/* Leaves everything secret where it was on the stack: its caller wipes that once. */
static CPU_OUT_OF_LINE int verify(struct pipeline_batch *batch)
{
    const struct arena_entry *entries;
    const int keys = arena_enter(batch->arena, &entries);
    if (keys < 0)
        return keys;
    struct work w;
    memset(&w, 0, sizeof w);
    memset(batch->counts, 0, sizeof batch->counts);
    batch->advanced = 0;
    index_read(batch->index);
    batch->mark = index_mark(batch->index);
    batch->turn = index_turns(batch->index);
    probe(batch, &w, 0);
    for (size_t start = 0; start < batch->n; start += CHUNK) {
        probe(batch, &w, start + CHUNK);
        verify_chunk(batch, &w, entries, (size_t)keys, start, chunk_size(batch, start));
    }
    batch->counts[0] = 0;
    if (pipeline_counts(batch->scheme))
        judge_counters(batch);
    index_leave(batch->index);
    arena_leave(batch->arena);
    return 0;
}

_Static_assert(AES_STACK + sizeof(struct work) <= CPU_STACK_MAX, "cpu_forget reaches that far");

int pipeline_verify(struct pipeline_batch *batch)
{
    const int failed = verify(batch);
    cpu_forget(AES_STACK + sizeof(struct work));
    return failed;
}
