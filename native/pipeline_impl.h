/* A portal's whole batch in one call: look up, derive the tag's key, verify, advance the counter,
 * one verdict a read.
 *
 * All kernels return bit-identical results. A tag's key = AN10922(arena key of the tag's slot,
 * identity at its true length || issuing realm, u32 big-endian || "JK"). Rows are judged in order,
 * so of two equal counters in one batch the first wins. Of schemes with a counter, batches advance
 * them one after the other, each as a whole: `turn` is their order. A batch sees the tags of one
 * instant, which is `mark`. So verdicts follow from the tags at the marks and the batches in the
 * order of their turns.
 *
 * The first that applies is the verdict:
 *   MALFORMED     the antenna is not known, channel >= channel_count, or the identity is all zero
 *   UNKNOWN_TAG   the index has no such identity of this length
 *   NO_EVIDENCE   the batch's scheme is NONE, or the evidence is all zero
 *   BAD_EVIDENCE  the tag is registered for another scheme, its key is not in the arena, or the
 * evidence is wrong REPLAYED      the evidence is right and answers another challenge, or its
 * counter is not above the stored one NOT_ACTIVE    the evidence is right and the tag is frozen or
 * retired (its counter advances) GENUINE
 */
#ifndef NATIVE_PIPELINE_IMPL_H
#define NATIVE_PIPELINE_IMPL_H

#include <stddef.h>
#include <stdint.h>

#include "arena_impl.h"
#include "tagindex_impl.h"

/* A tag is registered for one of these and is judged by no other: there is no way to a weaker one.
 */
enum pipeline_scheme {
    SCHEME_NONE = 1,
    SCHEME_TAM1 = 2,
    SCHEME_COUNTER_CMAC = 3,
    SCHEME_TAM2 = 4,
    SCHEME_SUN = 5,
    SCHEME_COUNTER_CMAC_16 = 6,
};

enum pipeline_verdict {
    VERDICT_GENUINE = 1,
    VERDICT_UNKNOWN_TAG = 2,
    VERDICT_BAD_EVIDENCE = 3,
    VERDICT_REPLAYED = 4,
    VERDICT_NOT_ACTIVE = 5,
    VERDICT_NO_EVIDENCE = 6,
    VERDICT_MALFORMED = 7,
    VERDICT_COUNT = 8,
};

/* Bytes of evidence a read carries: NONE 0; TAM1 16 (the response); TAM2 16 + 16 * blocks, blocks
 * 1..4 (tam2_impl.h; `blocks` is of no account for the others); SUN 11 (sun_impl.h); COUNTER_CMAC
 * 12: counter u32 little-endian || left 8 bytes of CMAC(key, "JKCMAC01" || 00000000 || counter u32
 * little-endian); COUNTER_CMAC_16 20: the same with all 16 bytes. -1: no such scheme. */
int pipeline_evidence_size(int scheme, size_t blocks);

/* Whether evidence of the scheme is a counter that has to rise. */
int pipeline_counts(int scheme);

struct pipeline_batch {
    struct index *index;
    struct arena *arena;
    int kernel;                    /* a bit that cpu_detect() sets */
    int scheme;                    /* enum pipeline_scheme */
    size_t n, width, blocks;       /* blocks: of TAM2 1..4, else 0 */
    const uint8_t *identities;     /* n * width, width 7, 8, 12 or 16; of SUN 7 */
    const uint8_t *evidence;       /* n * pipeline_evidence_size(scheme, blocks) */
    const uint8_t *antennas;       /* n */
    const uint8_t *known_antennas; /* 256: not 0 where the antenna is the portal's */
    const uint8_t *channels;       /* n */
    uint32_t channel_count;
    const uint8_t
        *challenge; /* TAM1, TAM2: 10 bytes, NULL when the quoted challenge is not valid */

    uint8_t *verdicts;           /* out n */
    uint32_t *numbers;           /* out n; INDEX_NONE where MALFORMED or UNKNOWN_TAG */
    uint8_t *data;               /* out n * 16 * blocks, for TAM2: what the tags' memory holds; zero
                                    where the verdict is not GENUINE */
    uint32_t *advanced_numbers;  /* out n, for schemes with a counter: tags whose counter advanced,
                                    in order of the rows */
    uint32_t *advanced_counters; /* out n: to what */
    size_t advanced;             /* out: entries in these two */
    uint64_t mark;               /* out: of the index */
    uint64_t turn; /* out: how many batches of schemes with a counter had been judged before */
    uint64_t counts[VERDICT_COUNT]; /* out: reads by verdict; [0] is 0 */
};

/* 0, or ARENA_CLOSED and nothing done. Holds the arena and the index's read lock meanwhile. */
int pipeline_verify(struct pipeline_batch *batch);

#endif
