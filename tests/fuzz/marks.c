/* The set of marks against a list of how often each is there. */
#include "common.h"

#include "markset_impl.h"

enum { KINDS = 64, MARKS_MAX = 200 };

/* Half of them of two homes, around the table's end too; 0 is one of them. */
static uint64_t kind(size_t number)
{
    const uint64_t low = (uint64_t)number / 4;
    return number % 4 == 0 ? low : number % 4 == 1 ? UINT64_MAX - low : low << 58 | 1;
}

static size_t kind_of(uint64_t mark)
{
    size_t number = 0;
    while (kind(number) != mark)
        number++;
    return number;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = {data, size};
    uint64_t held[KINDS] = {0}, total = 0;
    struct markset *set = markset_new(below(&input, 40));
    CHECK(set);
    while (input.left) {
        const int adding = take_byte(&input) % 2;
        const size_t n = below(&input, MARKS_MAX);
        uint64_t *marks = exactly(n * sizeof *marks);
        size_t missing = 0, first = n;
        for (size_t i = 0; i < n; i++) {
            marks[i] = kind(take_byte(&input) % KINDS);
            if (first == n && !held[kind_of(marks[i])])
                first = i;
        }
        CHECK(markset_first_missing(set, marks, n) == first);
        CHECK(first == n || !markset_contains(set, marks[first]));
        for (size_t i = 0; i < n; i++) {
            uint64_t *count = &held[kind_of(marks[i])];
            if (adding) {
                ++*count, ++total;
            } else if (*count) {
                --*count, --total;
            } else {
                missing++;
            }
        }
        CHECK(adding ? markset_add(set, marks, n) : markset_remove(set, marks, n) == missing);
        /* Of the mark 0 there is a number alone. */
        CHECK(markset_count(set) == total);
        CHECK(markset_bytes(set) > (total - held[kind_of(0)]) * sizeof *marks);
        free(marks);
    }
    uint64_t *dumped = exactly(total * sizeof *dumped);
    markset_dump(set, dumped);
    for (uint64_t i = 0; i < total; i++)
        CHECK(held[kind_of(dumped[i])]-- > 0);
    CHECK(markset_remove(set, dumped, total) == 0 && markset_count(set) == 0);
    free(dumped);
    markset_free(set);
    return 0;
}
