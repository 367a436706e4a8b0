//! Checkpoints saved packed: a directory like any other, whose safetensors file has the encoder's linear layers as the
//! kernels take them, so that loading maps them and is done. Replicas on one host then share these pages too.
//!
//! The file says in its metadata what it was packed for. Besides the packed layers (`rerankd.*`) it has all tensors that
//! went into none of them, as they were.

use std::collections::HashSet;
use std::io::{BufWriter, Write};
use std::path::Path;

use safetensors::Dtype;

use super::Model;
use crate::error::{Error, Result};
use crate::weights::Weights;

/// What a checkpoint is packed for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    /// "f32", "bf16", "int8"
    pub dtype: String,
    /// The instruction set: "scalar", "gemm", "avx2", "avx512".
    pub kernels: String,
}

/// The layout's own version: what another one wrote is refused.
const VERSION: &str = "3";

impl Form {
    /// None for a checkpoint as others save it.
    pub fn of(weights: &Weights) -> Option<Self> {
        let [dtype, kernels] = ["rerankd.dtype", "rerankd.kernels"].map(|key| weights.metadata(key));
        Some(Self { dtype: dtype?.to_string(), kernels: kernels?.to_string() })
    }

    /// Of a directory. One that can't be read is not packed: loading it says what is wrong.
    pub fn of_directory(directory: &Path) -> Result<Option<Self>> {
        let Ok(weights) = Weights::open(directory) else { return Ok(None) };
        match weights.metadata("rerankd.packed") {
            None | Some(VERSION) => Ok(Self::of(&weights)),
            Some(other) => Err(weights.refusal(format_args!(
                "packed by another release (layout {other}, and this one reads {VERSION}); pack the checkpoint again"
            ))),
        }
    }
}

/// One tensor to be written.
pub struct Entry<'a> {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    data: Data<'a>,
}

enum Data<'a> {
    Bytes(&'a [u8]),
    Floats(&'a [f32]),
}

impl<'a> Entry<'a> {
    pub fn vector(name: String, values: &'a [f32]) -> Self {
        Self { name, dtype: Dtype::F32, shape: vec![values.len()], data: Data::Floats(values) }
    }

    pub fn bytes(name: String, bytes: &'a [u8]) -> Self {
        Self { name, dtype: Dtype::U8, shape: vec![bytes.len()], data: Data::Bytes(bytes) }
    }

    fn len(&self) -> usize {
        match self.data {
            Data::Bytes(bytes) => bytes.len(),
            Data::Floats(values) => size_of_val(values),
        }
    }

    fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        match self.data {
            Data::Bytes(bytes) => out.write_all(bytes),
            Data::Floats(values) => values.iter().try_for_each(|value| out.write_all(&value.to_le_bytes())),
        }
    }
}

/// Writes `model`, which was loaded from `weights`, packed as it is, into the file `path`.
pub fn save(model: &Model, weights: &Weights, form: &Form, path: &Path) -> Result<()> {
    let failed = |e: std::io::Error| Error::model(path, format_args!("can't be written: {e}"));
    let mut entries = Vec::new();
    let mut consumed = HashSet::new();
    for (key, linear) in model.linears(weights)? {
        linear.store(&key, &mut entries);
        consumed.extend(linear.sources().iter().map(String::as_str));
    }
    for view in weights.views().filter(|view| !consumed.contains(view.name())) {
        let (name, dtype, shape) = (view.name().to_string(), view.dtype(), view.shape().to_vec());
        entries.push(Entry { name, dtype, shape, data: Data::Bytes(view.data()) });
    }
    // Panels first, which are whole cache lines; then by falling size of their numbers, so that each begins at a multiple
    // of it.
    let rank = |entry: &Entry| (entry.dtype != Dtype::U8, std::cmp::Reverse(entry.dtype.bitsize()));
    entries.sort_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| a.name.cmp(&b.name)));
    let header = header(&entries, form);
    let mut out = BufWriter::new(std::fs::File::create(path).map_err(failed)?);
    let write = |out: &mut BufWriter<_>| -> std::io::Result<()> {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(header.as_bytes())?;
        entries.iter().try_for_each(|entry| entry.write(out))?;
        out.flush()
    };
    write(&mut out).map_err(failed)
}

/// The safetensors format's header, padded so that the data begin on a cache line.
fn header(entries: &[Entry], form: &Form) -> String {
    let mut fields = serde_json::Map::new();
    let about = serde_json::json!({
        "format": "pt",
        "rerankd.packed": VERSION,
        "rerankd.dtype": form.dtype,
        "rerankd.kernels": form.kernels,
    });
    fields.insert("__metadata__".into(), about);
    let mut start = 0;
    for entry in entries {
        let end = start + entry.len();
        let field = serde_json::json!({
            "dtype": format!("{:?}", entry.dtype),
            "shape": entry.shape,
            "data_offsets": [start, end],
        });
        fields.insert(entry.name.clone(), field);
        start = end;
    }
    let mut text = serde_json::Value::Object(fields).to_string();
    let padded = (text.len() + 8).next_multiple_of(64) - 8;
    text.push_str(&" ".repeat(padded - text.len()));
    text
}
