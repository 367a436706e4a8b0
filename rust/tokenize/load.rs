//! Reading a checkpoint's tokenizer files, and refusing early what can't be served.

use std::path::Path;

use serde::Deserialize;
use tokenizers::ModelWrapper;

use super::template::Template;
use super::truncate::Side;
use super::unigram::PieceModel;
use super::{PairTokenizer, Tokenizer};
use crate::error::{Error, Result};

/// The keys of tokenizer_config.json that change what a pair becomes.
#[derive(Debug, Default, Deserialize)]
struct Config {
    /// Where there is no limit, transformers writes 1e30 as an integer, hence a float.
    model_max_length: Option<f64>,
    truncation_side: Option<String>,
    model_input_names: Option<Vec<String>>,
    tokenizer_class: Option<String>,
}

impl Config {
    /// Whether transformers hands the model no token types, so that all are 0 whatever the template says. Its generic
    /// class gives none unless told to; the classes of BERT and its kin do.
    fn untyped(&self) -> bool {
        match &self.model_input_names {
            Some(names) => names.iter().all(|name| name != "token_type_ids"),
            None => self.tokenizer_class.as_deref() == Some("TokenizersBackend"),
        }
    }
}

impl PairTokenizer {
    /// Reads `<dir>/tokenizer.json`, and `<dir>/tokenizer_config.json` if there is one. `position_limit` is the
    /// longest sequence the position table allows, `type_vocab` the rows of the token type table (0 or 1: types
    /// are all zero), `vocab` the rows of the word table.
    pub fn load(dir: &Path, position_limit: usize, type_vocab: usize, vocab: usize) -> Result<Self> {
        let file = dir.join("tokenizer.json");
        let mut tokenizer = read_tokenizer(&file)?;
        let config_file = dir.join("tokenizer_config.json");
        let config = read_config(&config_file)?;
        let side = side(&config, &config_file, &tokenizer)?;

        // A limit or padding saved with the tokenizer is its last user's setting, not the checkpoint's.
        tokenizer.with_truncation(None).map_err(|error| Error::model(&file, error))?;
        tokenizer.with_padding(None);
        let template = Template::derive(&tokenizer).map_err(|what| Error::model(&file, what))?;
        let template = if type_vocab <= 1 || config.untyped() { template.without_types() } else { template };
        check(&tokenizer, &template, &file, type_vocab, vocab)?;

        // A float that is too large or negative becomes usize's nearest, which is what is meant.
        let max_tokens =
            config.model_max_length.map_or(position_limit, |max| position_limit.min(max as usize));
        if max_tokens < template.added() + 2 {
            return Err(Error::Model(format!(
                "{}: a pair may have {max_tokens} tokens (the lesser of the position table and tokenizer_config.json's \
                 model_max_length), but takes at least {}",
                dir.display(),
                template.added() + 2
            )));
        }
        let loaded = Self { tokenizer, template, side, max_tokens };
        // No vocabulary has this one: a tokenizer without a token for the unknown shows itself now, not on a request.
        loaded
            .query("\u{10FFFD}")
            .map_err(|error| Error::model(&file, format!("fails on an unknown character: {error}")))?;
        Ok(loaded)
    }
}

fn read_tokenizer(file: &Path) -> Result<Tokenizer> {
    const MEND: &str = "write it with transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)";
    let bytes =
        std::fs::read(file).map_err(|error| Error::model(file, format!("can't be read: {error}; {MEND}")))?;
    let tokenizer = serde_json::from_slice::<Tokenizer>(&bytes).map_err(|error| {
        Error::model(file, format!("is not a tokenizer of the tokenizers library: {error}; {MEND}"))
    })?;
    if let PieceModel::Library(ModelWrapper::BPE(bpe)) = tokenizer.get_model()
        && let Some(dropout) = bpe.dropout.filter(|&dropout| dropout > 0.0)
    {
        let what = format!("model.dropout: {dropout} makes each score a matter of luck; set it to null");
        return Err(Error::model(file, what));
    }
    Ok(tokenizer)
}

fn read_config(file: &Path) -> Result<Config> {
    match std::fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|error| Error::model(file, format!("can't be parsed: {error}; mend it, or remove it"))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Config::default()),
        Err(error) => Err(Error::model(file, format!("can't be read: {error}"))),
    }
}

/// The side to cut: transformers takes tokenizer_config.json's word, then tokenizer.json's.
fn side(config: &Config, file: &Path, tokenizer: &Tokenizer) -> Result<Side> {
    let saved = tokenizer.get_truncation().map(|truncation| truncation.direction.as_ref());
    match config.truncation_side.as_deref().or(saved) {
        None | Some("right") => Ok(Side::Right),
        Some("left") => Ok(Side::Left),
        Some(other) => {
            Err(Error::model(file, format!("truncation_side: {other:?}; supported: \"left\", \"right\"")))
        }
    }
}

/// Refuses a tokenizer that would lead past the ends of the model's tables.
fn check(
    tokenizer: &Tokenizer,
    template: &Template,
    file: &Path,
    type_vocab: usize,
    vocab: usize,
) -> Result<()> {
    if usize::from(template.highest_type()) >= type_vocab.max(1) {
        let what = format!(
            "post_processor: has token type {}, but the model has {type_vocab} token types (config.json, \
             type_vocab_size)",
            template.highest_type()
        );
        return Err(Error::model(file, what));
    }
    let added = tokenizer.get_added_tokens_decoder().into_iter().map(|(id, token)| (id, token.content));
    let highest = tokenizer.get_model().highest().into_iter().chain(added).max();
    let special = (template.highest_id(), "the pair's special token".to_string());
    let (id, token) = highest.map_or(special.clone(), |highest| highest.max(special));
    if id as usize >= vocab {
        let what = format!(
            "{token:?} has id {id}, but the model's word table has {vocab} rows (config.json, vocab_size): the \
             tokenizer is not this model's"
        );
        return Err(Error::model(file, what));
    }
    Ok(())
}
