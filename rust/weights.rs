//! A checkpoint's weights: safetensors files, memory-mapped, read by name and checked against the shape expected.
//!
//! Nothing is copied here. The word table (70 % of bge-reranker-base) is gathered from the map for as long as the
//! model lives, so replicas on one host share its pages; whatever is packed into kernels' layout at load gives its
//! pages back with [`View::release`].

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use memmap2::{Mmap, UncheckedAdvice};
use safetensors::{Dtype, SafeTensors};

use crate::error::{Error, Result};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Older checkpoints call a LayerNorm's weight and bias gamma and beta.
const OLD_NAMES: [(&str, &str); 2] =
    [("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")];

/// All tensors of a checkpoint, by name.
pub struct Weights {
    directory: PathBuf,
    tensors: HashMap<String, View>,
    metadata: HashMap<String, String>,
    revision: String,
}

/// One tensor in a mapped file: row-major, f32, f16 or bf16.
#[derive(Clone)]
pub struct View {
    name: Arc<str>,
    map: Arc<Mmap>,
    bytes: Range<usize>,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl Weights {
    /// Maps `model.safetensors`, or the shards that `model.safetensors.index.json` lists.
    pub fn open(directory: &Path) -> Result<Self> {
        let (mut tensors, mut metadata) = (HashMap::new(), HashMap::new());
        let mut digest = Digest::new();
        for path in files(directory)? {
            let map = Arc::new(map_file(&path)?);
            let parsed = SafeTensors::deserialize(&map).map_err(|e| {
                Error::model(&path, format_args!("not a whole safetensors file ({e}); fetch it again"))
            })?;
            digest.add(&(map.len() as u64).to_le_bytes());
            let header = SafeTensors::read_metadata(&map).ok();
            metadata.extend(header.and_then(|(_, header)| header.metadata().clone()).unwrap_or_default());
            let mut named = parsed.tensors();
            named.sort_unstable_by(|a, b| a.0.cmp(&b.0));
            for (name, tensor) in named {
                let start = tensor.data().as_ptr() as usize - map.as_ptr() as usize;
                let bytes = start..start + tensor.data().len();
                digest.add(name.as_bytes());
                // Every tensor's beginning, not the whole: 1 GB would take most of a second and touch every page.
                digest.add(&tensor.data()[..tensor.data().len().min(64)]);
                let (map, dtype, shape) = (map.clone(), tensor.dtype(), tensor.shape().to_vec());
                let view = View { name: name.as_str().into(), map, bytes, dtype, shape };
                tensors.insert(name, view);
            }
        }
        Ok(Self { directory: directory.to_path_buf(), tensors, metadata, revision: digest.hex() })
    }

    pub fn contains(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// What comes before `suffix` in the one tensor name that ends with it: the checkpoint's own prefix.
    pub fn prefix_of(&self, suffix: &str) -> Result<String> {
        let mut prefixes: Vec<&str> =
            self.tensors.keys().filter_map(|name| name.strip_suffix(suffix)).collect();
        prefixes.sort_unstable();
        match prefixes.as_slice() {
            [one] => Ok(one.to_string()),
            [] => Err(self.refusal(format_args!("there is no tensor named *{suffix}; is it an encoder?"))),
            [first, second, ..] => Err(self.refusal(format_args!(
                "both {first}{suffix} and {second}{suffix} are there; one encoder is supported"
            ))),
        }
    }

    /// The tensor `name`, which must have this shape.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<View> {
        let Some(view) = self.find(name) else {
            return Err(self.refusal(format_args!("tensor {name} is missing; config.json asks for it")));
        };
        if view.shape != shape {
            return Err(self.refusal(format_args!(
                "tensor {name} has shape {:?}, but config.json makes it {shape:?}",
                view.shape
            )));
        }
        if !matches!(view.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            return Err(self.refusal(format_args!(
                "tensor {name} is {:?}; F32, F16 and BF16 are supported",
                view.dtype
            )));
        }
        Ok(view.clone())
    }

    /// Bytes that are no tensor to anybody else: `name`, of one dimension.
    pub fn raw(&self, name: &str) -> Result<(Arc<Mmap>, Range<usize>)> {
        match self.tensors.get(name) {
            Some(view) => Ok((view.map.clone(), view.bytes.clone())),
            None => Err(self.refusal(format_args!("tensor {name} is missing; pack the checkpoint again"))),
        }
    }

    /// A vector of whatever length; empty where there is none of the name.
    pub fn vector(&self, name: &str) -> Vec<f32> {
        self.tensors.get(name).map(View::to_vec).unwrap_or_default()
    }

    /// The file's own words about itself (`__metadata__`).
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// All tensors, in no order.
    pub fn views(&self) -> impl Iterator<Item = &View> {
        self.tensors.values()
    }

    /// Tells this checkpoint's weights from others of the same shape: 16 hex digits over names, sizes and samples.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    fn find(&self, name: &str) -> Option<&View> {
        self.tensors.get(name).or_else(|| {
            let (new, old) = OLD_NAMES.iter().find(|(new, _)| name.ends_with(new))?;
            self.tensors.get(&name.replace(new, old))
        })
    }

    pub fn refusal(&self, what: std::fmt::Arguments) -> Error {
        Error::model(&self.directory.join(SINGLE), what)
    }
}

impl View {
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Its bytes in the file.
    pub fn data(&self) -> &[u8] {
        &self.map[self.bytes.clone()]
    }

    /// Elements in one row: the product of all dimensions but the first.
    pub fn row_len(&self) -> usize {
        self.shape[1..].iter().product()
    }

    pub fn rows(&self) -> usize {
        self.shape[0]
    }

    /// Its size in the file.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Row `row` as f32 into `out` `[row_len]`. A vector is rows of one element; use [`View::to_vec`].
    ///
    /// Panics where `row` is past the end; tokenizers whose ids could be are refused at load.
    pub fn read_row(&self, row: usize, out: &mut [f32]) {
        let size = self.row_len() * self.dtype.bitsize() / 8;
        let bytes = &self.map[self.bytes.clone()][row * size..(row + 1) * size];
        decode(bytes, self.dtype, out);
    }

    /// The whole tensor as f32, row-major.
    pub fn to_vec(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.shape.iter().product()];
        decode(&self.map[self.bytes.clone()], self.dtype, &mut out);
        out
    }

    /// Gives the pages behind this tensor back to the system; a later read fetches them again.
    pub fn release(&self) {
        // SAFETY: the map is private, read-only and file-backed, so DONTNEED drops page-table entries and never data:
        // the next read of the same bytes faults them in from the file again.
        let advised = unsafe {
            self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, self.bytes.start, self.bytes.len())
        };
        // Advice only: where a system declines, memory is held a little longer and nothing is wrong.
        drop(advised);
    }
}

/// f32 from the file's little-endian elements. `bytes` need no alignment: safetensors promises none.
fn decode(bytes: &[u8], dtype: Dtype, out: &mut [f32]) {
    const BLOCK: usize = 64;
    match dtype {
        Dtype::F32 => {
            for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *value = f32::from_le_bytes(*raw);
            }
        }
        // By blocks through `half`, which uses the machine's conversion instructions where it has them.
        Dtype::F16 => {
            let mut block = [f16::ZERO; BLOCK];
            for (values, raw) in out.chunks_mut(BLOCK).zip(bytes.chunks(2 * BLOCK)) {
                for (half, raw) in block.iter_mut().zip(raw.as_chunks::<2>().0) {
                    *half = f16::from_le_bytes(*raw);
                }
                block[..values.len()].convert_to_f32_slice(values);
            }
        }
        _ => {
            for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *value = bf16::from_le_bytes(*raw).to_f32();
            }
        }
    }
}

fn map_file(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(|e| Error::model(path, format_args!("can't be opened: {e}")))?;
    // SAFETY: a checkpoint is read-only while it is served: whoever overwrites it in place changes scores, as with
    // every memory-mapped model. Replacing it by rename is safe, since the map keeps the old file.
    unsafe { Mmap::map(&file) }.map_err(|e| Error::model(path, format_args!("can't be mapped: {e}")))
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let single = directory.join(SINGLE);
    if single.is_file() {
        return Ok(vec![single]);
    }
    let index = directory.join(INDEX);
    if !index.is_file() {
        let other = directory.join("pytorch_model.bin").is_file();
        let advice =
            if other { "; pytorch_model.bin is not read: save it with safe_serialization=True" } else { "" };
        return Err(Error::model(&single, format_args!("there is no such file, nor {INDEX}{advice}")));
    }
    let text = std::fs::read(&index).map_err(|e| Error::model(&index, e))?;
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: HashMap<String, String>,
    }
    let parsed: Index = serde_json::from_slice(&text).map_err(|e| Error::model(&index, e))?;
    let mut shards: Vec<String> = parsed.weight_map.into_values().collect();
    shards.sort_unstable();
    shards.dedup();
    Ok(shards.into_iter().map(|shard| directory.join(shard)).collect())
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo): a fingerprint, not a signature.
struct Digest(u64);

impl Digest {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn hex(&self) -> String {
        format!("{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_is_fnv_1a() {
        let mut digest = Digest::new();
        digest.add(b"foobar");
        assert_eq!(digest.hex(), "85944171f73967e8");
    }

    #[test]
    fn decodes_every_dtype_unaligned() {
        let values: Vec<f32> = (0..150).map(|i| i as f32 * 0.5 - 20.0).collect();
        for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
            let mut bytes = vec![0u8];
            for value in &values {
                match dtype {
                    Dtype::F32 => bytes.extend(value.to_le_bytes()),
                    Dtype::F16 => bytes.extend(f16::from_f32(*value).to_le_bytes()),
                    _ => bytes.extend(bf16::from_f32(*value).to_le_bytes()),
                }
            }
            let mut out = vec![0.0; values.len()];
            decode(&bytes[1..], dtype, &mut out);
            assert_eq!(out, values, "{dtype:?}");
        }
    }
}
