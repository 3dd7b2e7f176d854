"""What a schedule has to know of a CPU: vector width, vector registers, threads."""

from __future__ import annotations

from dataclasses import dataclass

from edgevit.export.tvm.targets import BuildTarget

# multiply-adds (or elements, eight times over) from which starting threads pays: a few microseconds of work for one
# core, which is what waking the others takes
PARALLEL_FROM = 100_000


@dataclass(frozen=True)
class Machine:
    """lanes       float32 values in a vector register
    registers   vector registers
    threads     that the work is divided among
    dots        whether it adds up four products of integers of 8 bits at once, in 32: VNNI
    """

    lanes: int
    registers: int
    threads: int
    dots: bool = False

    def parallel(self, work: int | None) -> bool:
        """Whether a loop over ``work`` (None: unknown at build time) multiply-adds is worth the threads' start."""
        return self.threads > 1 and (work is None or work >= PARALLEL_FROM)


def machine_of(target: BuildTarget) -> Machine:
    features = set(target.features())
    # 512, 256 and 128 bits of float32. AVX-512 and AArch64 have 32 registers, all others 16.
    if "avx512f" in features:
        lanes, registers = 16, 32
    elif "avx" in features:
        lanes, registers = 8, 16
    else:
        lanes, registers = 4, 32 if target.arch == "aarch64" else 16
    dots = ("avx512_vnni" if lanes == 16 else "avx_vnni") in features
    return Machine(lanes, registers, max(1, target.cores), dots)
