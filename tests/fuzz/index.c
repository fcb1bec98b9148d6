/* The tag index and the key arena against lists that are searched from the front. */
#include "common.h"

#include "arena_impl.h"
#include "tagindex_impl.h"

enum { TAGS_MAX = 600, KEYS_MAX = 4 };

struct model {
    uint8_t identity[16], width, scheme, state, key;
    uint32_t counter;
};

/* Copied out and put many at a time, each width for itself, into an index that grows. */
static void copy_index(struct index *index, const struct model *model, size_t count)
{
    static const size_t widths[] = {7, 8, 12, 16};
    uint8_t *padded = exactly(count * 16), *lengths = exactly(count), *packed = exactly(count * 16);
    uint8_t *columns = exactly(count * 3);
    uint32_t *numbers = exactly(count * sizeof *numbers);
    struct index *other = index_new(1, 1);
    CHECK(other);
    index_read(index);
    index_copy(index, 0, count, padded, lengths, columns, columns + count, columns + 2 * count);
    index_leave(index);
    size_t done = 0;
    index_write(other);
    for (size_t w = 0; w < 4; w++) {
        size_t n = 0;
        uint8_t *schemes = exactly(count), *states = exactly(count), *keys = exactly(count);
        for (size_t at = 0; at < count; at++) {
            CHECK(lengths[at] == model[at].width &&
                  !memcmp(padded + at * 16, model[at].identity, 16));
            if (lengths[at] != widths[w])
                continue;
            memcpy(packed + n * widths[w], padded + at * 16, widths[w]);
            schemes[n] = columns[at];
            states[n] = columns[count + at];
            keys[n++] = columns[2 * count + at];
        }
        CHECK(index_put_many(other, packed, widths[w], schemes, states, keys, n, numbers) == n);
        for (size_t i = 0; i < n; i++)
            CHECK(numbers[i] == done + i);
        done += n;
        free(schemes), free(states), free(keys);
    }
    CHECK(index_count(other) == count);
    for (size_t at = 0; at < count; at++) {
        const struct index_slot *slot = index_find(other, model[at].identity, model[at].width);
        CHECK(slot && slot->scheme == model[at].scheme && slot->state == model[at].state &&
              slot->key == model[at].key && !slot->counter);
    }
    index_leave(other);
    index_free(other);
    free(padded), free(lengths), free(packed), free(columns), free(numbers);
}

/* Looked up many at a time, those of a width and one that is nobody's among them, and what else is
 * read of the whole. */
static void read_index(struct index *index, const struct model *model, size_t count, uint64_t mark)
{
    static const size_t widths[] = {7, 8, 12, 16};
    uint32_t *counters = exactly(count * sizeof *counters);
    index_write(index);
    index_set_mark(index, mark);
    index_leave(index);
    index_start_turns(index, mark);
    index_read(index);
    CHECK(index_turn_begin(index) == mark);
    index_turn_end(index);
    CHECK(index_turns(index) == mark + 1 && index_mark(index) == mark);
    CHECK(index_capacity(index) >= count && index_bytes(index) / 32 >= index_capacity(index));
    index_copy_counters(index, 0, count, counters);
    for (size_t at = 0; at < count; at++)
        CHECK(counters[at] == model[at].counter);
    for (size_t w = 0; w < 4; w++) {
        const size_t width = widths[w];
        size_t n = 1;
        CHECK(index_width_ok(width) && !index_width_ok(width + 2));
        for (size_t at = 0; at < count; at++)
            n += model[at].width == width;
        uint8_t *rows = exactly(n * width);
        uint32_t *expected = exactly(n * sizeof *expected), *numbers = exactly(n * sizeof *numbers);
        struct index_probe *probes = exactly(n * sizeof *probes);
        struct index_slot **slots = exactly(n * sizeof *slots);
        memset(rows, 0xEE, width);
        expected[0] = INDEX_NONE;
        for (size_t at = 0, row = 1; at < count; at++)
            if (model[at].width == width) {
                memcpy(rows + row * width, model[at].identity, width);
                expected[row++] = (uint32_t)at;
            }
        index_find_many(index, rows, width, n, numbers);
        CHECK(memcmp(numbers, expected, n * sizeof *numbers) == 0);
        index_probe_many(index, rows, width, n, probes);
        index_seek_many(index, probes, width, n, slots);
        for (size_t row = 0; row < n; row++)
            CHECK(slots[row] ? slots[row]->number == expected[row] : expected[row] == INDEX_NONE);
        free(rows), free(expected), free(numbers), free(probes), free(slots);
    }
    index_leave(index);
    free(counters);
}

static void use_index(struct input *input)
{
    static const size_t widths[] = {7, 8, 12, 16};
    static struct model model[TAGS_MAX];
    size_t count = 0;
    struct index *index = index_new(1 + (uint32_t)below(input, 30), take_byte(input));
    CHECK(index);
    while (input->left && count < TAGS_MAX - 1) {
        const uint8_t step = take_byte(input);
        const size_t width = widths[step >> 2 & 3];
        uint8_t identity[16] = {0};
        identity[0] = take_byte(input);
        identity[width - 1] = step >> 4;
        size_t at = 0;
        while (at < count && (model[at].width != width || memcmp(model[at].identity, identity, 16)))
            at++;
        if (step % 4 < 2) {
            const struct model tag = {.width = (uint8_t)width,
                                      .scheme = (uint8_t)(1 + take_byte(input) % 6),
                                      .state = (uint8_t)(1 + take_byte(input) % 3),
                                      .key = take_byte(input),
                                      .counter = at < count ? model[at].counter : 0};
            index_grow_some(index, below(input, 9), (uint32_t)below(input, 9)); /* half, often */
            index_write(index);
            CHECK(index_put(index, identity, width, tag.scheme, tag.state, tag.key) == at);
            index_leave(index);
            model[at] = tag;
            memcpy(model[at].identity, identity, 16);
            count += at == count;
        } else {
            uint8_t *rows =
                exactly(width); /* packed: the end of the row is the end of the buffer */
            uint32_t number;
            memcpy(rows, identity, width);
            index_read(index);
            struct index_slot *slot = index_find(index, rows, width);
            index_find_many(index, rows, width, 1, &number);
            CHECK(number == (at < count ? at : INDEX_NONE) && !slot == (at == count));
            if (slot) {
                const uint32_t counter = (uint32_t)below(input, 0x10000);
                CHECK(index_advance(slot, counter) == (counter > model[at].counter));
                if (counter > model[at].counter)
                    model[at].counter = counter;
                CHECK(slot == index_slot_of(index, number) && slot->counter == model[at].counter);
                CHECK(index_copy_slot(slot).counter == slot->counter);
                CHECK(slot->scheme == model[at].scheme && slot->state == model[at].state &&
                      slot->key == model[at].key && slot->length == width);
            }
            CHECK(index_count(index) == count && !index_slot_of(index, (uint32_t)count));
            index_leave(index);
            free(rows);
        }
    }
    read_index(index, model, count, count);
    copy_index(index, model, count);
    index_free(index);
}

static void use_arena(struct input *input)
{
    struct arena *arena = arena_new(KEYS_MAX);
    uint8_t realms[KEYS_MAX], first[KEYS_MAX], key[16] = {0};
    int count = 0;
    CHECK(arena);
    for (int step = 0; step < 8; step++) {
        const uint8_t realm = take_byte(input) % 6;
        key[15] = take_byte(input) % 3;
        int at = 0;
        while (at < count && realms[at] != realm)
            at++;
        int expected = at;
        if (at < count)
            expected = first[at] == key[15] ? at : ARENA_CONFLICT;
        else if (count == KEYS_MAX)
            expected = ARENA_FULL;
        CHECK(arena_add(arena, realm, 1, key) == expected);
        if (expected == count) {
            realms[count] = realm;
            first[count++] = key[15];
        }
        CHECK(arena_count(arena) == count);
        CHECK(arena_find(arena, realm, 2) == ARENA_NOT_FOUND);
        const struct arena_entry *entries;
        CHECK(arena_enter(arena, &entries) == count);
        for (int i = 0; i < count; i++)
            CHECK(entries[i].realm == realms[i] && entries[i].version == 1 &&
                  entries[i].master.round_keys[0][15] == first[i]);
        arena_leave(arena);
    }
    arena_close(arena);
    const struct arena_entry *none;
    CHECK(arena_count(arena) == ARENA_CLOSED && arena_enter(arena, &none) == ARENA_CLOSED);
    arena_free(arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = {data, size};
    use_arena(&input);
    use_index(&input);
    return 0;
}
