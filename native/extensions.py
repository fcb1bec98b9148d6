"""Which C files make which extension module, and the flags they are compiled and linked with.

Plain data for setup.py: it imports nothing, so that it can be loaded before anything is built. Every
`native/<name>.pyx` has one row. Paths are relative to the root of the repository.
"""

from __future__ import annotations

_KERNELS = [
    "native/cpu_impl.c",
    "native/aes_portable_impl.c",
    "native/aes_aesni_impl.c",
]

EXTENSIONS: dict[str, list[str]] = {
    "native.cpu": [*_KERNELS],
    "native.cmac": [*_KERNELS, "native/cmac_impl.c"],
    "native.an10922": [*_KERNELS, "native/an10922_impl.c"],
    "native.tam1": [*_KERNELS, "native/tam1_impl.c"],
    "native.tam2": [*_KERNELS, "native/tam2_impl.c"],
    "native.sun": [*_KERNELS, "native/sun_impl.c"],
    "native.arena": [*_KERNELS, "native/an10922_impl.c", "native/arena_impl.c"],
    "native.tagindex": ["native/tagindex_impl.c"],
    "native.pipeline": [
        *_KERNELS,
        "native/an10922_impl.c",
        "native/tam1_impl.c",
        "native/arena_impl.c",
        "native/tagindex_impl.c",
        "native/pipeline_impl.c",
    ],
    "native.tracks": ["native/tracks_impl.c"],
    "native.markset": ["native/markset_impl.c"],
    "native.merkle": [
        "native/sha256_portable_impl.c",
        "native/sha256_shani_impl.c",
        "native/merkle_impl.c",
    ],
}

# No -march: the AES-NI and SHA-NI files ask for their instructions function by function, so one
# build runs on any x86-64 and the same sources compile on other processors.
C_FLAGS: list[str] = [
    "-std=gnu11",
    "-O3",
    "-fvisibility=hidden",
    "-pthread",
    "-Wall",
    "-Wextra",
    "-Werror",
]

# For C written here (generated C would not pass them); the sanitizer test compiles with these added.
STRICT_C_FLAGS: list[str] = ["-Wconversion", "-Wshadow", "-Wstrict-prototypes", "-Wvla"]

LINK_FLAGS: list[str] = ["-pthread"]
