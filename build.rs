//! Compiles the GPU's kernels, where a feature asks for them: with nvcc to PTX, which a GPU's driver makes its own when it
//! is loaded (`cuda`), and with the C++ compiler for tests (`cuda-twin`). Without either it does nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCES: &str = "rust/kernels/gpu/cu";

/// The PTX of a newer nvcc is refused by older drivers for its version alone. Ours uses nothing newer than this one's, which
/// drivers read since CUDA 12.4; ptxas says whether that is so.
const PTX_VERSION: (u32, u32) = (8, 4);

/// The oldest GPUs with the instructions that the kernels use: Ampere.
const LEAST_CAPABILITY: u32 = 80;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={SOURCES}");
    if cfg!(feature = "cuda") {
        compile_ptx();
    }
    #[cfg(feature = "cuda-twin")]
    compile_twin();
}

fn compile_ptx() {
    for variable in ["NVCC", "CUDA_PATH", "CUDA_HOME", "CUDA_COMPUTE_CAP"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let capability = match std::env::var("CUDA_COMPUTE_CAP") {
        Err(_) => LEAST_CAPABILITY,
        Ok(text) => match text.parse() {
            Ok(capability) if capability >= LEAST_CAPABILITY => capability,
            _ => fail(&format!(
                "CUDA_COMPUTE_CAP is {text:?}; a number from {LEAST_CAPABILITY} on is needed, as 80 or 90"
            )),
        },
    };
    let nvcc = find_nvcc();
    let out = out_directory().join("kernels.ptx");
    let arch = format!("-arch=compute_{capability}");
    let flags = ["-ptx", &arch, "-O3", "-std=c++17", "-Werror", "all-warnings", "-o"];
    run(Command::new(&nvcc).args(flags).arg(&out).arg(format!("{SOURCES}/kernels.cu")));
    let ptx = read(&out);
    let older = with_version(&ptx);
    write(&out, &older);
    let checked = out.with_extension("cubin");
    let ptxas = nvcc.with_file_name(if cfg!(windows) { "ptxas.exe" } else { "ptxas" });
    let status =
        Command::new(&ptxas).arg(format!("-arch=sm_{capability}")).arg("-o").arg(&checked).arg(&out).status();
    if !status.is_ok_and(|status| status.success()) {
        println!(
            "cargo::warning=the kernels' PTX needs what this nvcc brought; a driver as new as it is will be needed"
        );
        write(&out, &ptx);
    }
}

/// The text with a `.version` no newer than [`PTX_VERSION`].
fn with_version(ptx: &str) -> String {
    let line = |line: &str| {
        let version = line.strip_prefix(".version ").and_then(|version| version.trim().split_once('.'));
        match version.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?))) {
            Some(version) if version > PTX_VERSION => {
                format!(".version {}.{}\n", PTX_VERSION.0, PTX_VERSION.1)
            }
            _ => format!("{line}\n"),
        }
    };
    ptx.lines().map(line).collect()
}

/// NVCC; bin/nvcc of CUDA_PATH or CUDA_HOME; what `make cuda-env` has installed; the path's.
fn find_nvcc() -> PathBuf {
    if let Some(nvcc) = std::env::var_os("NVCC") {
        return nvcc.into();
    }
    let homes = ["CUDA_PATH", "CUDA_HOME"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    let installed = std::fs::read_dir(".cuda/env/lib").into_iter().flatten().flatten();
    let installed = installed.map(|python| python.path().join("site-packages/nvidia/cu13"));
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = homes.chain(installed).map(|home| home.join("bin")).chain(std::env::split_paths(&paths));
    let mut nvcc = found.map(|bin| bin.join("nvcc")).filter(|nvcc| nvcc.is_file());
    nvcc.next().unwrap_or_else(|| fail("there is no nvcc; run `make cuda-env`, or set NVCC or CUDA_PATH"))
}

#[cfg(feature = "cuda-twin")]
fn compile_twin() {
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        // As nvcc has it: registers are read as pairs of halves.
        .flag("-fno-strict-aliasing")
        // Its jumps are from one stack to another, which a hardened longjmp takes for a fault.
        .flag("-U_FORTIFY_SOURCE")
        .opt_level(2)
        .warnings(true)
        .extra_warnings(true)
        .flag_if_supported("-Wno-unused-function")
        .file(format!("{SOURCES}/twin.cpp"))
        .compile("rerankd_twin");
}

fn out_directory() -> PathBuf {
    std::env::var_os("OUT_DIR").map(PathBuf::from).unwrap_or_else(|| fail("cargo sets OUT_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| fail(&format!("{}: {e}", path.display())))
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap_or_else(|e| fail(&format!("{}: {e}", path.display())));
}

fn run(command: &mut Command) {
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!("{command:?} failed: {status}")),
        Err(e) => fail(&format!("{command:?} can't be run: {e}")),
    }
}

fn fail(why: &str) -> ! {
    println!("cargo::error={why}");
    std::process::exit(1)
}
