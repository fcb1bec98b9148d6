/* Tracks: any reads in any order; what is counted in comes out. */
#include "common.h"

#include "tracks_impl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = {data, size};
    const uint32_t capacity = 1 + (uint32_t)below(&input, 12);
    struct tracks *tracks = tracks_new(capacity);
    CHECK(tracks);
    uint64_t genuine = 0, told = 0;
    while (input.left) {
        const size_t n = below(&input, 20);
        const int64_t base = (int64_t)below(&input, 0x10000) * 1000000;
        uint8_t *bytes = take(&input, n * 4), *sides = exactly(256);
        uint8_t *verdicts = exactly(n), *antennas = exactly(n);
        uint32_t *numbers = exactly(n * 4), *times = exactly(n * 4), *opened = exactly(n * 4);
        int16_t *rssi = exactly(n * 2);
        for (int i = 0; i < 256; i++)
            sides[i] = (uint8_t)(i % 3);
        for (size_t i = 0; i < n; i++) {
            numbers[i] = bytes[4 * i] % 20;
            verdicts[i] = (uint8_t)(1 + bytes[4 * i] / 128);
            antennas[i] = bytes[4 * i + 1];
            times[i] = (uint32_t)bytes[4 * i + 2] << 24 | bytes[4 * i + 3];
            rssi[i] = (int16_t)(bytes[4 * i + 1] * 257);
            genuine += verdicts[i] == 1 && sides[antennas[i]] != 0;
        }
        const uint32_t before = tracks_count(tracks);
        const uint64_t left_out = tracks_overflow(tracks);
        const size_t fresh =
            tracks_update(tracks, n, numbers, verdicts, antennas, sides, rssi, times, base, opened);
        CHECK(tracks_count(tracks) == before + fresh && tracks_count(tracks) <= capacity);
        for (size_t i = 0; i < fresh; i++)
            CHECK(opened[i] < n && verdicts[opened[i]] == 1 &&
                  (i == 0 || opened[i - 1] < opened[i]));
        CHECK(tracks_overflow(tracks) - left_out <= n);
        const int64_t quiet = (int64_t)below(&input, 0x10000) * 100000000;
        const size_t done = tracks_quiet(tracks, quiet);
        struct track_row *rows = exactly(done * sizeof *rows);
        tracks_finish(tracks, quiet, rows);
        CHECK(tracks_quiet(tracks, quiet) == 0);
        for (size_t i = 0; i < done; i++) {
            CHECK(rows[i].first_ns <= rows[i].last_ns && rows[i].last_ns < quiet);
            told += rows[i].reads_inner + rows[i].reads_outer;
        }
        CHECK(told <= genuine);
        free(rows);
        free(rssi);
        free(opened);
        free(times);
        free(numbers);
        free(antennas);
        free(verdicts);
        free(sides);
        free(bytes);
    }
    tracks_free(tracks);
    return 0;
}
