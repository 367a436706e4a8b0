//! Where and how exactly to compute: what the operator asked for, resolved once against what the machine has.

use crate::error::{Error, Result};
use crate::kernels::Kernels;

/// A resolved choice; "auto" does not occur in it.
#[derive(Clone, Debug)]
pub struct Device {
    /// "cpu"
    pub name: String,
    /// "f32"
    pub dtype: &'static str,
    /// Compute threads, at least 1.
    pub threads: usize,
    pub kernels: Kernels,
}

impl Device {
    /// `threads` None: as many as the cgroup quota and the affinity mask leave (the floor of the quota, at least 1).
    pub fn resolve(device: &str, dtype: &str, threads: Option<usize>) -> Result<Self> {
        match device {
            "auto" | "cpu" => {}
            cuda if cuda == "cuda" || cuda.starts_with("cuda:") => {
                return Err(Error::Device(format!(
                    "device {cuda}: this build computes on the CPU only; use device cpu or auto"
                )));
            }
            other => {
                return Err(Error::input("device", format!("{other:?} is not one of auto, cpu, cuda:N")));
            }
        }
        match dtype {
            "auto" | "f32" => {}
            "bf16" | "f16" | "int8" => {
                return Err(Error::Device(format!(
                    "dtype {dtype}: the CPU kernels of this build compute in f32; use dtype f32 or auto"
                )));
            }
            other => {
                return Err(Error::input("dtype", format!("{other:?} is not one of auto, f32, bf16, int8")));
            }
        }
        if threads == Some(0) {
            return Err(Error::input("threads", "0 threads compute nothing; at least 1"));
        }
        // The standard library reads the affinity mask and cgroup v1 and v2 quotas, rounding down, at least 1.
        let threads = match threads {
            Some(threads) => threads,
            None => std::thread::available_parallelism()
                .map_err(|e| Error::Device(format!("can't tell the number of cores ({e}); set threads")))?
                .get(),
        };
        Ok(Self { name: "cpu".into(), dtype: "f32", threads, kernels: Kernels::detect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolves_auto_once() {
        let device = Device::resolve("auto", "auto", None).unwrap();
        assert_eq!((device.name.as_str(), device.dtype), ("cpu", "f32"));
        assert!(device.threads >= 1);
        assert_eq!(Device::resolve("cpu", "f32", Some(3)).unwrap().threads, 3);
    }

    #[test]
    fn refuses_what_it_cannot_do() {
        assert!(matches!(Device::resolve("cuda:0", "auto", None), Err(Error::Device(_))));
        assert!(matches!(Device::resolve("cpu", "int8", None), Err(Error::Device(_))));
        for (device, dtype, threads, field) in
            [("gpu", "f32", None, "device"), ("cpu", "f8", None, "dtype"), ("cpu", "f32", Some(0), "threads")]
        {
            match Device::resolve(device, dtype, threads) {
                Err(Error::Input { field: named, .. }) => assert_eq!(named, field),
                other => panic!("{other:?}"),
            }
        }
    }
}
