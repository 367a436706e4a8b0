//! AMX: eight registers that are tiles, 16 rows of 64 bytes, and a unit that multiplies them: `tdpbusd`, `tdpbf16ps`. Rust
//! has no stable intrinsics for it, so its few instructions are written out.

use std::arch::asm;
use std::arch::x86_64::*;
use std::sync::LazyLock;

use super::avx512_formats::{Bf16, Int8};
use super::format::Format;
use super::lanes::Lanes;
use super::tiles::{ASKED, DEPTH, Operands, PANEL, TILE_ROWS, Tiles};

/// Proves that the CPU has AMX for bytes, and AVX-512 VNNI.
#[derive(Clone, Copy)]
pub(super) struct AmxInt8(Int8);

/// Proves that the CPU has AMX for bf16, and AVX-512 BF16.
#[derive(Clone, Copy)]
pub(super) struct AmxBf16(Bf16);

/// What the CPU and the system let this process do: (bytes, bf16).
static USABLE: LazyLock<(bool, bool)> = LazyLock::new(|| {
    // Leaf 7 of cpuid, EDX: bit 22 AMX-BF16, 24 AMX-TILE, 25 AMX-INT8.
    let has = |bit: u32| __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx >> bit & 1 == 1;
    if has(24) && permitted() { (has(25), has(22)) } else { (false, false) }
});

/// Asks the system for the tiles' registers, as it wants to be asked once for a process (Documentation/arch/x86/xstate.rst):
/// they make a thread's saved state 8 KB larger. One that has no such call, or refuses it, is one without tiles.
fn permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XFEATURE_XTILEDATA: u64 = 18;
    if !cfg!(target_os = "linux") {
        return false;
    }
    let answer: i64;
    // SAFETY: a system call that reads no memory, with the registers that the kernel overwrites named. It changes what this
    // process may use and nothing that it has.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => answer,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    answer == 0
}

impl AmxInt8 {
    pub(super) fn new() -> Option<Self> {
        Int8::new().filter(|_| USABLE.0).map(Self)
    }

    /// # Safety
    /// `new` has found one.
    pub(super) const unsafe fn assume() -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { Int8::assume() })
    }
}

impl AmxBf16 {
    pub(super) fn new() -> Option<Self> {
        Bf16::new().filter(|_| USABLE.1).map(Self)
    }

    /// # Safety
    /// `new` has found one.
    pub(super) const unsafe fn assume() -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { Bf16::assume() })
    }
}

/// The configuration that `ldtilecfg` reads: palette 1, and of each of eight tiles the bytes of a row and the rows.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static WHOLE_TILES: Configuration = {
    let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
    let mut tile = 0;
    while tile < 8 {
        (row_bytes[tile], rows[tile]) = (DEPTH as u16, TILE_ROWS as u8);
        tile += 1;
    }
    Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
};

/// Lets the tiles go when it is dropped: a thread that keeps them pays for their 8 KB at every switch.
struct Released;

impl Drop for Released {
    fn drop(&mut self) {
        // SAFETY: made by `configured` alone, whose caller's token proves AMX.
        unsafe { asm!("tilerelease", options(nostack, nomem)) }
    }
}

/// # Safety
/// The CPU has AMX, and the process may use it.
unsafe fn configured<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: the caller's promise; 64 bytes are read, which is what a configuration has.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const WHOLE_TILES, options(nostack, readonly)) };
    let _released = Released;
    work()
}

/// Bytes of 16 rows of sums.
const SUMS: usize = TILE_ROWS * PANEL * 4;

/// `multiply` with one of the two instructions. Tiles 0 to 2 are the first rows' sums, 3 to 5 the second's, 6 is inputs and 7
/// weights: both are loaded anew for every two products. A step's weights are 16 rows of PANEL * 4 bytes, as the sums are.
macro_rules! multiply {
    ($product:literal, $operands:ident, $sums:ident) => {{
        let Operands { x, stride, both, w, steps, coming } = $operands;
        let second = x.wrapping_add(TILE_ROWS * stride);
        if both {
            asm!(
                "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", "tilezero tmm4", "tilezero tmm5",
                "2:",
                "tileloadd tmm6, [{x} + {stride}]",
                "tileloadd tmm7, [{w} + {row}]",
                concat!($product, " tmm0, tmm6, tmm7"),
                "prefetcht1 [{coming} + 0]", "prefetcht1 [{coming} + 64]",
                "tileloadd tmm6, [{second} + {stride}]",
                concat!($product, " tmm3, tmm6, tmm7"),
                "prefetcht1 [{coming} + 128]", "prefetcht1 [{coming} + 192]",
                "tileloadd tmm7, [{w} + {row} + 64]",
                concat!($product, " tmm4, tmm6, tmm7"),
                "prefetcht1 [{coming} + 256]", "prefetcht1 [{coming} + 320]",
                "tileloadd tmm6, [{x} + {stride}]",
                concat!($product, " tmm1, tmm6, tmm7"),
                "prefetcht1 [{coming} + 384]", "prefetcht1 [{coming} + 448]",
                "tileloadd tmm7, [{w} + {row} + 128]",
                concat!($product, " tmm2, tmm6, tmm7"),
                "prefetcht1 [{coming} + 512]", "prefetcht1 [{coming} + 576]",
                "tileloadd tmm6, [{second} + {stride}]",
                concat!($product, " tmm5, tmm6, tmm7"),
                "prefetcht1 [{coming} + 640]", "prefetcht1 [{coming} + 704]",
                "add {x}, {depth}", "add {second}, {depth}", "add {w}, {panel}", "add {coming}, {asked}",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{sums} + {row}], tmm0",
                "tilestored [{sums} + {row} + 64], tmm1",
                "tilestored [{sums} + {row} + 128], tmm2",
                "tilestored [{sums} + {row} + {lower}], tmm3",
                "tilestored [{sums} + {row} + {lower} + 64], tmm4",
                "tilestored [{sums} + {row} + {lower} + 128], tmm5",
                x = inout(reg) x => _, second = inout(reg) second => _, w = inout(reg) w => _, steps = inout(reg) steps => _,
                coming = inout(reg) coming => _, asked = const ASKED * 64,
                stride = in(reg) stride, row = in(reg) PANEL * 4, sums = in(reg) $sums,
                depth = const DEPTH, panel = const DEPTH * PANEL, lower = const SUMS,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            )
        } else {
            asm!(
                "tilezero tmm0", "tilezero tmm1", "tilezero tmm2",
                "2:",
                "tileloadd tmm6, [{x} + {stride}]",
                "tileloadd tmm3, [{w} + {row}]",
                "tileloadd tmm4, [{w} + {row} + 64]",
                "tileloadd tmm5, [{w} + {row} + 128]",
                concat!($product, " tmm0, tmm6, tmm3"),
                concat!($product, " tmm1, tmm6, tmm4"),
                concat!($product, " tmm2, tmm6, tmm5"),
                "add {x}, {depth}", "add {w}, {panel}",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{sums} + {row}], tmm0",
                "tilestored [{sums} + {row} + 64], tmm1",
                "tilestored [{sums} + {row} + 128], tmm2",
                x = inout(reg) x => _, w = inout(reg) w => _, steps = inout(reg) steps => _,
                stride = in(reg) stride, row = in(reg) PANEL * 4, sums = in(reg) $sums,
                depth = const DEPTH, panel = const DEPTH * PANEL,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _,
                options(nostack),
            )
        }
    }};
}

/// Products of what the tiles hold, whatever it is, into six of them.
macro_rules! peak {
    ($product:literal, $rounds:ident) => {
        asm!(
            "tilezero tmm6", "tilezero tmm7",
            "2:",
            concat!($product, " tmm0, tmm6, tmm7"),
            concat!($product, " tmm1, tmm6, tmm7"),
            concat!($product, " tmm2, tmm6, tmm7"),
            concat!($product, " tmm3, tmm6, tmm7"),
            concat!($product, " tmm4, tmm6, tmm7"),
            concat!($product, " tmm5, tmm6, tmm7"),
            "dec {rounds}",
            "jnz 2b",
            rounds = inout(reg) $rounds.max(1) => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, nomem),
        )
    };
}

/// Operations of one round of `peak`, 2 a multiply-add: six products of 16 x 16, over `values` values of k.
fn operations(values: usize, rounds: usize) -> u64 {
    (rounds.max(1) * 6 * TILE_ROWS * TILE_ROWS * values * 2) as u64
}

/// A unit: its format, its instruction, the values of k that it takes at a time, and its sums as f32.
macro_rules! unit {
    ($unit:ident, $format:ident, $product:literal, $values:expr, |$from:ident| $value:expr) => {
        impl Tiles for $unit {
            type Format = $format;

            #[inline(always)]
            fn format(self) -> $format {
                self.0
            }

            fn configured<R>(self, work: impl FnOnce() -> R) -> R {
                // SAFETY: the token proves it.
                unsafe { configured(work) }
            }

            fn peak(self, rounds: usize) -> u64 {
                // SAFETY: the token proves AMX, and tiles are configured; nothing but they is touched.
                self.configured(|| unsafe { peak!($product, rounds) });
                operations($values, rounds)
            }

            // SAFETY: by the trait's contract.
            #[inline(always)]
            unsafe fn multiply(self, operands: Operands, sums: *mut u32) {
                // SAFETY: the token proves AMX, the caller that tiles are configured; x and w are read as the operands say,
                // and as many rows of `sums` are written as it has.
                unsafe { multiply!($product, operands, sums) }
            }

            // SAFETY: by the trait's contract.
            #[inline(always)]
            unsafe fn value(self, $from: *const u32) -> <<$format as Format>::Lanes as Lanes>::V {
                // SAFETY: the token's features, the caller's pointer.
                unsafe { $value }
            }
        }
    };
}

unit!(AmxInt8, Int8, "tdpbusd", DEPTH, |from| _mm512_cvtepi32_ps(_mm512_loadu_si512(from.cast())));
unit!(AmxBf16, Bf16, "tdpbf16ps", DEPTH / 2, |from| _mm512_loadu_ps(from.cast()));
