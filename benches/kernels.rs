//! How near the kernels come to the machine's peak: `cargo bench --bench kernels -- [--quick] [--isa avx2] [only]`;
//! `only` is a part of the lines' names.
//!
//! The peak is measured here too, before and after each line (clocks wander), by multiply-adds that never leave the
//! registers. Every time is the best of several: a shared machine only ever adds. `gemm` is set against the portable kernels'
//! peak, which on x86-64 is not that of the instructions it takes.

use std::hint::black_box;
use std::time::Instant;

use rerankd::kernels::{
    Activation, AttentionScratch, Compute, Inputs, Isa, Kernels, NarrowInputs, NarrowKernels, Precision,
};

struct Bench {
    kernels: Kernels,
    /// Repetitions, of which the best counts.
    rounds: usize,
    /// What a line's name must contain to be run.
    only: String,
}

/// A narrow format's products, against the peak of its own.
struct Narrow<'a> {
    bench: &'a Bench,
    kernels: NarrowKernels,
}

impl Narrow<'_> {
    fn peak(&self) -> f64 {
        let rounds = 200_000;
        let operations = self.kernels.peak(1).0 * rounds as u64;
        operations as f64
            / self.bench.time(|| {
                black_box(self.kernels.peak(black_box(rounds)));
            })
    }

    fn linear(&self, rows: usize, n: usize, k: usize) {
        let weight = values(n * k);
        let pack = |row: usize, out: &mut [f32]| out.copy_from_slice(&weight[row * k..(row + 1) * k]);
        let packed = self.kernels.pack(n, k, &Inputs::default(), pack);
        let (x, bias, mut out) = (values(rows * k), values(n), vec![0.0; rows * n]);
        let mut inputs = NarrowInputs::default();
        let what = format!("{:?} linear {rows} x {n} x {k}", self.kernels.precision());
        if !what.contains(&self.bench.only) {
            return;
        }
        let before = self.peak();
        let quantize = self.bench.time(|| self.kernels.quantize(&x, k, rows, &packed, &mut inputs));
        let seconds = self.bench.time(|| {
            let none = Activation::None;
            self.kernels.linear(&inputs, rows, &packed, &bias, none, 0..n, &mut out, n);
        });
        let (rate, peak) = (2.0 * (rows * n * k) as f64 / seconds, before.max(self.peak()));
        let (gops, share) = (rate / 1e9, 100.0 * rate / peak);
        let more = 100.0 * quantize / seconds;
        println!(
            "{what:42} {:9.1} us  {gops:7.1} GOP/s    {share:5.1} % of peak; inputs {more:.1} % more",
            seconds * 1e6
        );
        black_box(&out);
    }
}

/// Deterministic values in -1..1.
fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}

impl Bench {
    /// Seconds: the best of the rounds, and of as many more as a quarter of a second holds.
    fn time(&self, mut work: impl FnMut()) -> f64 {
        work();
        let (begun, mut best, mut done) = (Instant::now(), f64::INFINITY, 0);
        while done < self.rounds || (self.rounds > 1 && begun.elapsed().as_secs_f64() < 0.25) {
            let start = Instant::now();
            work();
            best = best.min(start.elapsed().as_secs_f64());
            done += 1;
        }
        best
    }

    /// Floating-point operations a second, in registers.
    fn peak(&self) -> f64 {
        let rounds = 200_000;
        let operations = self.kernels.peak(1).0 * rounds as u64;
        let seconds = self.time(|| {
            black_box(self.kernels.peak(black_box(rounds)));
        });
        operations as f64 / seconds
    }

    /// One line: the rate, and what share of the peak it is.
    fn line(&self, what: &str, operations: f64, mut work: impl FnMut()) {
        if !what.contains(&self.only) {
            return;
        }
        let before = self.peak();
        let seconds = self.time(&mut work);
        let (rate, peak) = (operations / seconds, before.max(self.peak()));
        let (gflops, share) = (rate / 1e9, 100.0 * rate / peak);
        println!("{what:42} {:9.1} us  {gflops:7.1} GFLOP/s  {share:5.1} % of peak", seconds * 1e6);
    }

    fn linear(&self, rows: usize, n: usize, k: usize, activation: Activation) {
        let packed = self.kernels.pack(&values(n * k), n, k);
        let (x, bias, mut out) = (values(rows * k), values(n), vec![0.0; rows * n]);
        let what = format!("linear {rows} x {n} x {k} {activation:?}");
        self.line(&what, 2.0 * (rows * n * k) as f64, || {
            self.kernels.linear(&x, k, rows, &packed, &bias, activation, &mut out, n);
        });
        black_box(&out);
    }

    /// Beside linear layers in `narrow`: where their products are on tiles, attention is too.
    fn attention(&self, narrow: Option<NarrowKernels>, tokens: usize, heads: usize, head_dim: usize) {
        let compute = Compute { kernels: self.kernels, narrow };
        let width = heads * head_dim;
        let (qkv, mut out) = (values(tokens * 3 * width), vec![0.0; tokens * width]);
        let mut scratch = AttentionScratch::default();
        let beside = narrow.map_or(String::new(), |narrow| format!("{} ", narrow.name()));
        let what = format!("{beside}attention {tokens} tokens, {heads} x {head_dim}");
        // The two products; the softmax is what the share loses.
        self.line(&what, 4.0 * (tokens * tokens * width) as f64, || {
            compute.attention(&qkv, &[0, tokens as u32], heads, head_dim, &mut out, &mut scratch);
        });
        black_box(&out);
    }

    fn cls_attention(&self, sequences: usize, tokens: usize, heads: usize, head_dim: usize) {
        let width = heads * head_dim;
        let ends: Vec<u32> = (0..=sequences).map(|s| (s * tokens) as u32).collect();
        let (x, q) = (values(sequences * tokens * width), values(sequences * width));
        let (weight, bias, mut out) = (values(width * width), values(width), vec![0.0; sequences * width]);
        let mut scratch = AttentionScratch::default();
        let what = format!("cls {sequences} x {tokens} tokens, {heads} x {head_dim}");
        let operations = 4.0 * (sequences * width * (width + heads * tokens)) as f64;
        self.line(&what, operations, || {
            let (w_k, w_v) = (&weight, &weight);
            self.kernels.cls_attention(
                &x,
                &ends,
                &q,
                w_k,
                w_v,
                &bias,
                heads,
                head_dim,
                &mut out,
                &mut scratch,
            );
        });
        black_box(&out);
    }

    /// Nanoseconds an element, of what has no multiply-adds to count.
    fn elementwise(&self, what: &str, len: usize, mut work: impl FnMut(&mut [f32])) {
        if !what.contains(&self.only) {
            return;
        }
        let (source, mut x) = (values(len), values(len));
        let copy = self.time(|| x.copy_from_slice(black_box(&source)));
        let both = self.time(|| {
            x.copy_from_slice(black_box(&source));
            work(&mut x);
        });
        let seconds = both - copy;
        println!("{what:42} {:9.1} us  {:7.3} ns an element", seconds * 1e6, seconds * 1e9 / len as f64);
    }
}

fn run(bench: &Bench) {
    let kernels = bench.kernels;
    println!("{}: peak {:.1} GFLOP/s on one core", kernels.name(), bench.peak() / 1e9);
    for rows in [64, 128, 256] {
        for (n, k) in
            [(2304, 768), (768, 768), (3072, 768), (768, 3072), (1152, 384), (1536, 384), (384, 1536)]
        {
            bench.linear(rows, n, k, Activation::None);
        }
    }
    bench.linear(1, 768, 768, Activation::Tanh);
    bench.linear(256, 3072, 768, Activation::Gelu);
    for tokens in [64, 128, 256, 512] {
        bench.attention(None, tokens, 12, 64);
    }
    bench.attention(None, 128, 12, 32);
    bench.cls_attention(1, 128, 12, 64);
    bench.cls_attention(8, 128, 12, 64);
    let (width, rows) = (768, 256);
    let (gamma, beta, residual) = (values(width), values(width), values(rows * width));
    bench.elementwise("gelu 256 x 3072", rows * 3072, |x| kernels.activate(x, Activation::Gelu));
    bench.elementwise("gelu (tanh) 256 x 3072", rows * 3072, |x| kernels.activate(x, Activation::GeluTanh));
    bench.elementwise("softmax 256 x 768", rows * width, |x| kernels.softmax(x, width));
    bench.elementwise("add and layer norm 256 x 768", rows * width, |x| {
        kernels.add_layer_norm(x, &residual, width, &gamma, &beta, 1e-5);
    });
}

fn run_narrow(bench: &Bench, kernels: NarrowKernels) {
    let narrow = Narrow { bench, kernels };
    let (name, precision) = (kernels.name(), kernels.precision());
    println!("{name}: {precision:?} peak {:.1} GOP/s on one core", narrow.peak() / 1e9);
    for rows in [64, 128, 256] {
        for (n, k) in [(2304, 768), (768, 768), (3072, 768), (768, 3072), (1152, 384), (384, 1536)] {
            narrow.linear(rows, n, k);
        }
    }
    if kernels.isa() == Isa::Amx {
        for (tokens, head_dim) in [(128, 64), (512, 64), (128, 32)] {
            bench.attention(Some(kernels), tokens, 12, head_dim);
        }
    }
}

fn main() {
    let (mut quick, mut isa, mut only) = (false, None, String::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--quick" => quick = true,
            "--isa" => isa = arguments.next(),
            "--bench" => {} // cargo's
            _ => only = argument,
        }
    }
    for kernels in Kernels::available() {
        let chosen = match &isa {
            Some(name) => name == kernels.name(),
            None => quick || kernels.isa() == Kernels::detect().isa(),
        };
        if chosen {
            let bench = Bench { kernels, rounds: if quick { 1 } else { 15 }, only: only.clone() };
            run(&bench);
            // AMX's go with AVX-512's, whose lanes do all but their products.
            let tiles = if kernels.isa() == Isa::Avx512 { Isa::Amx } else { kernels.isa() };
            for precision in [Precision::Bf16, Precision::Int8] {
                for narrow in NarrowKernels::available(precision) {
                    if (kernels.isa()..=tiles).contains(&narrow.isa()) {
                        run_narrow(&bench, narrow);
                    }
                }
            }
        }
    }
}
