//! What the checkpoint says of itself: config.json, refused early and in a sentence where it can't be served.

use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::kernels::Activation;

/// The encoders that can be served. All are post-LN Transformers with learned absolute positions; they differ in
/// names, position offset, token types, embedding projection and head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Bert,
    /// RoBERTa, XLM-RoBERTa and CamemBERT: positions count from pad_token_id + 1.
    Roberta,
    Electra,
    DistilBert,
}

const SUPPORTED: &str = "bert, roberta, xlm-roberta, camembert, electra, distilbert";

/// A checkpoint's shape. Sizes are in elements, limits in tokens.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    pub model_type: String,
    pub family: Family,
    pub layers: usize,
    pub hidden: usize,
    pub heads: usize,
    pub intermediate: usize,
    /// Width of the embedding tables; ELECTRA's may be smaller than `hidden`.
    pub embedding: usize,
    pub vocab: usize,
    /// Rows of the position table.
    pub positions: usize,
    /// The position of the first token.
    pub position_offset: usize,
    /// RoBERTa: this id takes the position `pad` and counts none.
    pub pad: Option<u32>,
    /// Rows of the token-type table; 0 where there is none.
    pub types: usize,
    pub eps: f32,
    pub activation: Activation,
    /// Outputs of the head: 1, or 2 (whose logit is `[1] - [0]`).
    pub labels: usize,
}

impl ModelConfig {
    pub fn load(directory: &Path) -> Result<Self> {
        let path = directory.join("config.json");
        let text = std::fs::read(&path)
            .map_err(|e| Error::model(&path, format_args!("can't be read ({e}); a checkpoint needs it")))?;
        let json: Value = serde_json::from_slice(&text)
            .map_err(|e| Error::model(&path, format_args!("is not JSON: {e}")))?;
        Fields { path: &path, json: &json }.parse()
    }

    /// The longest pair that the position table allows, special tokens included.
    pub fn position_limit(&self) -> usize {
        self.positions - self.position_offset
    }

    pub fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }
}

struct Fields<'a> {
    path: &'a Path,
    json: &'a Value,
}

impl Fields<'_> {
    fn parse(&self) -> Result<ModelConfig> {
        let (model_type, family) = self.family()?;
        self.refuse_variants()?;
        // DistilBERT names its sizes its own way.
        let distil = family == Family::DistilBert;
        let name = |usual, distilled| if distil { distilled } else { usual };
        let hidden = self.size(name("hidden_size", "dim"))?;
        let heads_key = name("num_attention_heads", "n_heads");
        let heads = self.size(heads_key)?;
        if hidden % heads != 0 {
            return Err(self.refusal(format_args!("{heads_key} is {heads}, which does not divide {hidden}")));
        }
        let positions = self.size("max_position_embeddings")?;
        let pad =
            if family == Family::Roberta { Some(self.size_or("pad_token_id", 1)? as u32) } else { None };
        let position_offset = pad.map_or(0, |pad| pad as usize + 1);
        if positions < position_offset + 4 {
            return Err(self.refusal(format_args!("max_position_embeddings is {positions}: no pair fits")));
        }
        Ok(ModelConfig {
            model_type,
            family,
            layers: self.size(name("num_hidden_layers", "n_layers"))?,
            hidden,
            heads,
            intermediate: self.size(name("intermediate_size", "hidden_dim"))?,
            embedding: if family == Family::Electra {
                self.size_or("embedding_size", hidden)?
            } else {
                hidden
            },
            vocab: self.size("vocab_size")?,
            positions,
            position_offset,
            pad,
            types: if distil { 0 } else { self.size_or("type_vocab_size", 2)? },
            // DistilBERT has no such key: 1e-12 is in its code.
            eps: if distil { 1e-12 } else { self.number_or("layer_norm_eps", 1e-12)? as f32 },
            activation: self.activation(name("hidden_act", "activation"))?,
            labels: self.labels()?,
        })
    }

    fn family(&self) -> Result<(String, Family)> {
        let Some(model_type) = self.json.get("model_type").and_then(Value::as_str) else {
            return Err(self.refusal(format_args!("model_type is missing; supported: {SUPPORTED}")));
        };
        let family = match model_type {
            "bert" => Family::Bert,
            "roberta" | "xlm-roberta" | "camembert" => Family::Roberta,
            "electra" => Family::Electra,
            "distilbert" => Family::DistilBert,
            other => {
                return Err(self
                    .refusal(format_args!("model_type {other:?} can't be served; supported: {SUPPORTED}")));
            }
        };
        let architectures = self.json.get("architectures").and_then(Value::as_array);
        if let Some(name) = architectures.and_then(|list| list.first()).and_then(Value::as_str)
            && !name.ends_with("ForSequenceClassification")
        {
            return Err(self.refusal(format_args!(
                "architectures names {name}, which has no relevance head; a ...ForSequenceClassification \
                 (cross-encoder, reranker) checkpoint is needed"
            )));
        }
        Ok((model_type.to_string(), family))
    }

    /// Variants of a supported model_type that compute something else.
    fn refuse_variants(&self) -> Result<()> {
        if let Some(kind) = self.json.get("position_embedding_type").and_then(Value::as_str)
            && kind != "absolute"
        {
            return Err(self.refusal(format_args!(
                "position_embedding_type {kind:?} can't be served; supported: absolute"
            )));
        }
        for key in ["is_decoder", "add_cross_attention"] {
            if self.json.get(key).and_then(Value::as_bool) == Some(true) {
                return Err(self.refusal(format_args!("{key} is true; encoders are supported")));
            }
        }
        if self.json.get("quantization_config").is_some_and(|q| !q.is_null()) {
            return Err(self.refusal(format_args!(
                "quantization_config is there; F32, F16 and BF16 checkpoints are supported"
            )));
        }
        Ok(())
    }

    fn activation(&self, key: &str) -> Result<Activation> {
        match self.json.get(key).and_then(Value::as_str).unwrap_or("gelu") {
            "gelu" | "gelu_python" => Ok(Activation::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
            "relu" => Ok(Activation::Relu),
            other => Err(self
                .refusal(format_args!("{key} {other:?} can't be served; supported: gelu, gelu_new, relu"))),
        }
    }

    /// transformers counts id2label, else takes num_labels, else 2.
    fn labels(&self) -> Result<usize> {
        let labels = match self.json.get("id2label").and_then(Value::as_object) {
            Some(map) => map.len(),
            None => self.size_or("num_labels", 2)?,
        };
        match labels {
            1 | 2 => Ok(labels),
            other => Err(self.refusal(format_args!(
                "the head has {other} labels (id2label); a reranker has 1 (a logit) or 2 (not relevant, relevant)"
            ))),
        }
    }

    fn size(&self, key: &str) -> Result<usize> {
        match self.json.get(key) {
            Some(value) => self.positive(key, value),
            None => Err(self.refusal(format_args!("{key} is missing"))),
        }
    }

    fn size_or(&self, key: &str, default: usize) -> Result<usize> {
        match self.json.get(key) {
            None | Some(Value::Null) => Ok(default),
            // pad_token_id and type_vocab_size may be 0.
            Some(value) if value.as_u64() == Some(0) => Ok(0),
            Some(value) => self.positive(key, value),
        }
    }

    fn positive(&self, key: &str, value: &Value) -> Result<usize> {
        match value.as_u64() {
            // The bound keeps products of sizes far from overflow; no real checkpoint comes near.
            Some(size) if (1..=1 << 24).contains(&size) => Ok(size as usize),
            _ => Err(self.refusal(format_args!("{key} is {value}; a whole number from 1 is needed"))),
        }
    }

    fn number_or(&self, key: &str, default: f64) -> Result<f64> {
        match self.json.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => match value.as_f64() {
                Some(number) if number > 0.0 && number < 1.0 => Ok(number),
                _ => Err(self.refusal(format_args!("{key} is {value}; a number between 0 and 1 is needed"))),
            },
        }
    }

    fn refusal(&self, what: std::fmt::Arguments) -> Error {
        Error::model(self.path, what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(json: Value) -> Result<ModelConfig> {
        Fields { path: Path::new("m/config.json"), json: &json }.parse()
    }

    fn bert() -> Value {
        json!({"model_type": "bert", "architectures": ["BertForSequenceClassification"], "hidden_size": 8,
               "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 16, "vocab_size": 10,
               "max_position_embeddings": 32, "id2label": {"0": "LABEL_0"}})
    }

    fn with(key: &str, value: Value) -> Value {
        let mut json = bert();
        json[key] = value;
        json
    }

    #[test]
    fn reads_a_bert() {
        let config = parse(bert()).unwrap();
        assert_eq!((config.family, config.labels, config.head_dim()), (Family::Bert, 1, 4));
        assert_eq!((config.position_limit(), config.types, config.pad), (32, 2, None));
    }

    #[test]
    fn roberta_positions_start_after_the_pad() {
        let config = parse(with("model_type", json!("xlm-roberta"))).unwrap();
        assert_eq!((config.position_offset, config.position_limit(), config.pad), (2, 30, Some(1)));
    }

    #[test]
    fn refusals_name_the_file_the_key_and_what_is_supported() {
        let cases = [
            ("model_type", json!("modernbert"), "supported: bert"),
            ("model_type", json!(null), "supported: bert"),
            ("architectures", json!(["BertModel"]), "ForSequenceClassification"),
            ("hidden_act", json!("silu"), "supported: gelu, gelu_new, relu"),
            ("position_embedding_type", json!("relative_key"), "supported: absolute"),
            ("id2label", json!({"0": "a", "1": "b", "2": "c"}), "3 labels"),
            ("num_attention_heads", json!(3), "does not divide"),
            ("hidden_size", json!("big"), "whole number"),
            ("vocab_size", json!(-1), "whole number"),
            ("max_position_embeddings", json!(2), "no pair fits"),
            ("layer_norm_eps", json!("x"), "between 0 and 1"),
            ("is_decoder", json!(true), "encoders"),
            ("quantization_config", json!({"bits": 8}), "F32, F16 and BF16"),
        ];
        for (key, value, expected) in cases {
            match parse(with(key, value)) {
                Err(Error::Model(message)) => {
                    assert!(message.starts_with("m/config.json: "), "{message}");
                    assert!(message.contains(key) || key == "max_position_embeddings", "{message}");
                    assert!(message.contains(expected), "{key}: {message}");
                }
                other => panic!("{key}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = ModelConfig::load(Path::new("no/such/place")).unwrap_err();
        assert!(error.to_string().contains("config.json"), "{error}");
    }
}
