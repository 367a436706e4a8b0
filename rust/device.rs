//! Where and how exactly to compute: what the operator asked for, resolved once against what the machine has.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::kernels::gpu;
use crate::kernels::{Activation, Compute, Inputs, Isa, Kernels, NarrowInputs, NarrowKernels, Precision};

/// What the operator asked for.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    /// "auto", "cpu", "cuda" (all GPUs), "cuda:N" (one)
    pub device: &'a str,
    /// "auto", "f32", "bf16", "f16", "int8"
    pub dtype: &'a str,
    /// None: as many as the cgroup quota and the affinity mask leave (the floor of the quota, at least 1).
    pub threads: Option<usize>,
    /// "auto", or the name of an instruction set, for tests.
    pub kernels: &'a str,
    /// Whether `kernels` is what the checkpoint was packed for, and not asked for: how its panels lie, and no limit.
    pub packed: bool,
    /// Whether a dtype that the machine has no instructions for is computed all the same.
    pub emulate: bool,
}

/// A resolved choice; "auto" does not occur in it.
#[derive(Clone, Debug)]
pub struct Device {
    /// "cpu", "cuda:0", "cuda:0,1"
    pub name: String,
    /// "f32", "bf16", "int8"; "f32", "f16", "bf16" on a GPU
    pub dtype: &'static str,
    /// Compute threads, at least 1.
    pub threads: usize,
    /// The CPU's kernels.
    pub compute: Compute,
    /// None: the CPU computes.
    pub gpus: Option<Gpus>,
    /// Why "auto" has not come to what this build is for, if so.
    pub note: Option<String>,
}

/// The GPUs to compute on, each with the whole model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpus {
    /// "cuda"
    pub kind: &'static str,
    pub ordinals: Vec<usize>,
    pub precision: gpu::Precision,
}

/// Whether this build computes on GPUs.
pub const CUDA: bool = gpu::built();

/// The kinds of GPU that there can be. The twin is the tests' own, in a build of theirs.
const KINDS: [&str; 2] = ["cuda", "cuda-twin"];

impl Device {
    pub fn resolve(choice: &Choice) -> Result<Self> {
        let (kind, number) = match choice.device.split_once(':') {
            Some((kind, number)) => (kind, Some(number)),
            None => (choice.device, None),
        };
        match KINDS.into_iter().find(|known| *known == kind) {
            Some(kind) => Self::on(kind, gpus(choice.device, kind, number)?, choice),
            None if choice.device == "cpu" => Self::cpu(choice, None),
            None if choice.device == "auto" && !gpu::built() => Self::cpu(choice, None),
            None if choice.device == "auto" => match why_cpu(choice) {
                Some(why) => Self::cpu(choice, Some(format!("computing on the CPU, for {why}"))),
                None => match gpu::count("cuda") {
                    Ok(count) => Self::on("cuda", (0..count).collect(), choice),
                    Err(why) => Self::cpu(choice, Some(format!("computing on the CPU: {why}"))),
                },
            },
            None => {
                let device = choice.device;
                Err(Error::input("device", format!("{device:?} is not one of auto, cpu, cuda, cuda:N")))
            }
        }
    }

    fn cpu(choice: &Choice, note: Option<String>) -> Result<Self> {
        let (kernels, bound) = kernels(choice)?;
        let (dtype, narrow) = precision(choice, kernels, bound)?;
        let threads = threads(choice.threads)?;
        // gemm is for f32's weights: beside others the rest is as where these are packed, to the bit.
        let plain = Kernels::new(Isa::Scalar).filter(|_| narrow.is_some() && kernels.isa() == Isa::Gemm);
        let compute = Compute { kernels: plain.unwrap_or(kernels), narrow };
        Ok(Self { name: "cpu".into(), dtype, threads, compute, gpus: None, note })
    }

    fn on(kind: &'static str, ordinals: Vec<usize>, choice: &Choice) -> Result<Self> {
        let (kernels, _) = kernels(choice)?;
        let precision = match choice.dtype {
            "auto" | "f16" => gpu::Precision::F16,
            "bf16" => gpu::Precision::Bf16,
            "f32" => gpu::Precision::F32,
            "int8" => {
                return Err(Error::Device("dtype int8: for CPUs; on a GPU use f16, bf16 or f32".into()));
            }
            other => return Err(not_a_dtype(other)),
        };
        let numbers: Vec<String> = ordinals.iter().map(usize::to_string).collect();
        Ok(Self {
            name: format!("{kind}:{}", numbers.join(",")),
            dtype: precision.name(),
            threads: threads(choice.threads)?,
            compute: Compute { kernels, narrow: None },
            gpus: Some(Gpus { kind, ordinals, precision }),
            note: None,
        })
    }

    /// The instructions in use.
    pub fn instructions(&self) -> &'static str {
        match &self.gpus {
            Some(gpus) => gpus.kind,
            None => self.compute.narrow.map_or(self.compute.kernels.name(), |narrow| narrow.name()),
        }
    }
}

/// The GPUs that a device asks for: that of the number, or all.
fn gpus(device: &str, kind: &str, number: Option<&str>) -> Result<Vec<usize>> {
    let refusal = |why: String| Error::Device(format!("device {device}: {why}; use device cpu or auto"));
    let number = match number.map(str::parse::<usize>) {
        None => None,
        Some(Ok(number)) => Some(number),
        Some(Err(_)) => {
            return Err(Error::input(
                "device",
                format!("{device:?} has no number after its colon, as {kind}:0 has"),
            ));
        }
    };
    let count = gpu::count(kind).map_err(refusal)?;
    match number {
        None => Ok((0..count).collect()),
        Some(number) if number < count => Ok(vec![number]),
        Some(_) => Err(refusal(format!("the last of the GPUs here is {kind}:{}", count - 1))),
    }
}

/// What asks for the CPU where the device is left open, if anything does.
fn why_cpu(choice: &Choice) -> Option<String> {
    if choice.dtype == "int8" {
        return Some("dtype int8 is for CPUs".into());
    }
    (choice.kernels != "auto").then(|| format!("kernels {} are a CPU's", choice.kernels))
}

fn not_a_dtype(dtype: &str) -> Error {
    Error::input("dtype", format!("{dtype:?} is not one of auto, f32, bf16, f16, int8"))
}

/// The kernels in f32, and the best instruction set that those of another precision may use.
fn kernels(choice: &Choice) -> Result<(Kernels, Isa)> {
    let name = choice.kernels;
    let isa = match name {
        "auto" => return Ok((Kernels::detect(), Isa::Amx)),
        "scalar" => Isa::Scalar,
        "gemm" => Isa::Gemm,
        "avx2" => Isa::Avx2,
        "avx512" => Isa::Avx512,
        other => {
            return Err(Error::input(
                "kernels",
                format!("{other:?} is not one of auto, scalar, gemm, avx2, avx512"),
            ));
        }
    };
    // AMX reads AVX-512's panels.
    let bound = if choice.packed && isa == Isa::Avx512 { Isa::Amx } else { isa };
    Kernels::new(isa).map(|kernels| (kernels, bound)).ok_or_else(|| {
        let best = Kernels::detect().name();
        Error::Device(format!("kernels {name}: this machine has no {name}; its best is {best}: use auto"))
    })
}

/// The precision's name and its kernels; None: f32.
fn precision(choice: &Choice, kernels: Kernels, bound: Isa) -> Result<(&'static str, Option<NarrowKernels>)> {
    match choice.dtype {
        "f32" => Ok(("f32", None)),
        "auto" => {
            let bf16 = best(Precision::Bf16, bound);
            let pays = bf16.native() && faster(kernels, bf16);
            Ok(if pays { ("bf16", Some(bf16)) } else { ("f32", None) })
        }
        "bf16" => Ok(("bf16", Some(usable(choice, Precision::Bf16, bound)?))),
        "int8" => Ok(("int8", Some(usable(choice, Precision::Int8, bound)?))),
        "f16" => Err(Error::Device("dtype f16: for GPUs; on a CPU use f32, bf16 or int8".into())),
        other => Err(not_a_dtype(other)),
    }
}

/// The best kernels of the precision that the chosen instruction set allows.
fn best(precision: Precision, bound: Isa) -> NarrowKernels {
    let allowed = |narrow: &NarrowKernels| narrow.isa() <= bound;
    let all = NarrowKernels::available(precision);
    all.into_iter().rev().find(allowed).unwrap_or_else(|| NarrowKernels::detect(precision))
}

fn usable(choice: &Choice, precision: Precision, bound: Isa) -> Result<NarrowKernels> {
    let narrow = best(precision, bound);
    if narrow.native() || choice.emulate {
        return Ok(narrow);
    }
    let (needs, gains) = match precision {
        Precision::Bf16 => ("AVX-512 BF16 or AMX", "halves the weights' memory and is no faster than f32"),
        Precision::Int8 => ("AVX2, AVX-512 VNNI or AMX", "saves memory and is slower than f32"),
    };
    Err(Error::Device(format!(
        "dtype {}: this machine has no instructions for it ({needs}); use dtype f32 or auto, or set emulate, which {gains}",
        choice.dtype
    )))
}

/// Compute threads, at least 1; None: as many as the cgroup quota and the affinity mask leave.
pub fn threads(asked: Option<usize>) -> Result<usize> {
    match asked {
        Some(0) => Err(Error::input("threads", "0 threads compute nothing; at least 1")),
        Some(threads) => Ok(threads),
        // The standard library reads the affinity mask and cgroup v1 and v2 quotas, rounding down, at least 1.
        None => std::thread::available_parallelism()
            .map(|threads| threads.get())
            .map_err(|e| Error::Device(format!("can't tell the number of cores ({e}); set threads"))),
    }
}

/// Whether a product is faster in the narrow format than in f32, by more than noise: tried on one of a layer's size, for
/// a few milliseconds. The CPU's features don't tell: Sapphire Rapids has `vdpbf16ps` at half the rate of f32's FMA.
fn faster(kernels: Kernels, narrow: NarrowKernels) -> bool {
    const ROWS: usize = 64;
    const SIZE: usize = 768;
    let weights = |row: usize, out: &mut [f32]| out.fill((row % 7) as f32 - 3.0);
    let (x, mut out) = (vec![0.5; ROWS * SIZE], vec![0.0; ROWS * SIZE]);
    let wide = kernels.pack_with(SIZE, SIZE, weights);
    let packed = narrow.pack(SIZE, SIZE, &Inputs::default(), weights);
    let mut inputs = NarrowInputs::default();
    let mut best = [Duration::MAX; 2];
    for _ in 0..6 {
        let start = Instant::now();
        kernels.linear(&x, SIZE, ROWS, &wide, &[], Activation::None, &mut out, SIZE);
        let middle = Instant::now();
        narrow.quantize(&x, SIZE, ROWS, &packed, &mut inputs);
        narrow.linear(&inputs, ROWS, &packed, &[], Activation::None, 0..SIZE, &mut out, SIZE);
        best = [best[0].min(middle - start), best[1].min(middle.elapsed())];
    }
    best[1] < best[0].mul_f32(0.9)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUTO: Choice = Choice {
        device: "auto",
        dtype: "auto",
        threads: None,
        kernels: "auto",
        packed: false,
        emulate: false,
    };

    #[test]
    fn resolves_auto_once() {
        let device = Device::resolve(&AUTO).unwrap();
        assert_eq!(device.name, "cpu");
        let bf16 = NarrowKernels::detect(Precision::Bf16);
        assert!(device.dtype == "f32" || (device.dtype == "bf16" && bf16.native()));
        assert!(device.threads >= 1);
        assert_eq!(Device::resolve(&Choice { threads: Some(3), ..AUTO }).unwrap().threads, 3);
    }

    #[test]
    fn an_instruction_set_bounds_every_precision() {
        let scalar = Device::resolve(&Choice { kernels: "scalar", dtype: "f32", ..AUTO }).unwrap();
        assert_eq!(scalar.instructions(), "scalar");
        for dtype in ["bf16", "int8"] {
            let choice = Choice { kernels: "scalar", dtype, ..AUTO };
            match Device::resolve(&choice) {
                Err(Error::Device(message)) => assert!(message.contains("emulate"), "{message}"),
                other => panic!("{other:?}"),
            }
            let emulated = Device::resolve(&Choice { emulate: true, ..choice }).unwrap();
            assert_eq!((emulated.dtype, emulated.instructions()), (dtype, "scalar"));
        }
        for narrow in [Precision::Bf16, Precision::Int8].map(NarrowKernels::detect) {
            let dtype = if narrow.precision() == Precision::Bf16 { "bf16" } else { "int8" };
            assert_eq!(Device::resolve(&Choice { dtype, ..AUTO }).is_ok(), narrow.native());
        }
        // Packed panels are no limit, where something better reads the same; and keep off a GPU all the same.
        for (packed, bound) in [(false, Isa::Avx512), (true, Isa::Amx)] {
            let choice = Choice { kernels: "avx512", packed, ..AUTO };
            assert!(kernels(&choice).map_or(true, |(_, found)| found == bound));
            assert!(why_cpu(&choice).is_some());
        }
        let packed = Choice { kernels: "scalar", packed: true, ..AUTO };
        assert_eq!(kernels(&packed).unwrap().1, Isa::Scalar);
        let avx512 = Device::resolve(&Choice { kernels: "avx512", ..AUTO });
        assert_eq!(avx512.is_ok(), Kernels::new(Isa::Avx512).is_some());
        let gemm = Device::resolve(&Choice { kernels: "gemm", ..AUTO }).unwrap();
        assert_eq!((gemm.dtype, gemm.instructions()), ("f32", "gemm"));
    }

    #[test]
    fn a_gpu_that_is_not_there_is_refused_and_auto_does_without() {
        if gpu::count("cuda").is_ok() {
            return; // a machine with one: `make gpu-check` is for those
        }
        for device in ["cuda", "cuda:0", "cuda:7"] {
            match Device::resolve(&Choice { device, ..AUTO }) {
                Err(Error::Device(message)) => {
                    assert!(message.starts_with(&format!("device {device}: ")), "{message}");
                    assert!(message.ends_with("use device cpu or auto"), "{message}");
                }
                other => panic!("{other:?}"),
            }
        }
        let auto = Device::resolve(&AUTO).unwrap();
        assert_eq!((auto.name.as_str(), auto.gpus), ("cpu", None));
        assert_eq!(auto.note.is_some(), gpu::built(), "only a build for GPUs has something to say");
    }

    #[test]
    fn auto_keeps_to_the_cpu_what_only_a_cpu_does() {
        assert!(why_cpu(&Choice { dtype: "int8", ..AUTO }).is_some());
        assert!(why_cpu(&Choice { kernels: "scalar", ..AUTO }).is_some());
        assert!(why_cpu(&Choice { dtype: "f16", ..AUTO }).is_none());
    }

    #[test]
    fn several_gpus_are_one_device_each_with_the_precision_asked_for() {
        let device = Device::on("cuda", vec![0, 1], &AUTO).unwrap();
        assert_eq!((device.name.as_str(), device.dtype, device.instructions()), ("cuda:0,1", "f16", "cuda"));
        for (dtype, precision) in
            [("f32", gpu::Precision::F32), ("f16", gpu::Precision::F16), ("bf16", gpu::Precision::Bf16)]
        {
            let gpus = Device::on("cuda", vec![3], &Choice { dtype, ..AUTO }).unwrap().gpus;
            assert_eq!(gpus, Some(Gpus { kind: "cuda", ordinals: vec![3], precision }));
        }
        assert!(matches!(
            Device::on("cuda", vec![0], &Choice { dtype: "int8", ..AUTO }),
            Err(Error::Device(_))
        ));
        assert!(matches!(
            Device::on("cuda", vec![0], &Choice { dtype: "f8", ..AUTO }),
            Err(Error::Input { .. })
        ));
    }

    #[test]
    fn refuses_what_it_cannot_do() {
        assert!(matches!(Device::resolve(&Choice { dtype: "f16", ..AUTO }), Err(Error::Device(_))));
        for (choice, field) in [
            (Choice { device: "gpu", ..AUTO }, "device"),
            (Choice { device: "cpu:0", ..AUTO }, "device"),
            (Choice { device: "cuda:x", ..AUTO }, "device"),
            (Choice { dtype: "f8", ..AUTO }, "dtype"),
            (Choice { threads: Some(0), ..AUTO }, "threads"),
            (Choice { kernels: "sse9", ..AUTO }, "kernels"),
        ] {
            match Device::resolve(&choice) {
                Err(Error::Input { field: named, .. }) => assert_eq!(named, field),
                other => panic!("{other:?}"),
            }
        }
    }
}
