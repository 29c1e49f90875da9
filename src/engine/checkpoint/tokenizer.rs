//! `Tokenizer`: text to token ids with byte offsets and back, as the checkpoint's tokenizer.json defines it.

use std::{
    collections::{BTreeSet, HashSet},
    path::Path,
};

use tokenizers::{ModelWrapper, PostProcessorWrapper};

use tiltmeter_model::input;
use tiltmeter_model::problem::Problem;

/// The tokens of one text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    pub ids: Vec<u32>,
    /// Per token the bytes `[start, end)` of its text, nothing trimmed. Tokens that share one character
    /// all carry the bytes of the whole character.
    pub offsets: Vec<(usize, usize)>,
}

/// A checkpoint's tokenizer.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    special: HashSet<u32>,
    /// Texts that other files call one token and tokenizer.json would cut into pieces.
    unknown: Vec<String>,
}

impl Tokenizer {
    /// Reads tokenizer.json.
    ///
    /// # Errors
    /// A file that cannot be read, or that is no tokenizer.
    pub fn open(path: &Path) -> Result<Self, Problem> {
        let bytes = input::read_bytes(path, input::MAX_TEXT * 16).map_err(|error| {
            Problem::new(format!("cannot read the tokenizer: {error}"))
                .at(path.display().to_string())
                .hint("check that the file exists and may be read")
        })?;
        Self::from_bytes(&bytes).map_err(|problem| problem.at(path.display().to_string()))
    }

    /// Reads the bytes of tokenizer.json.
    ///
    /// # Errors
    /// Bytes that describe no tokenizer.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Problem> {
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| {
            Problem::new(format!("the tokenizer cannot be read: {error}"))
                .hint("the file is damaged or of a newer format: save it again with a current `tokenizers`")
        })?;
        if let ModelWrapper::BPE(model) = inner.get_model()
            && model.dropout.is_some_and(|dropout| dropout > 0.0)
        {
            return Err(Problem::new("the tokenizer has BPE dropout, which cuts the same text differently each time")
                .hint("set `dropout` to null in tokenizer.json: it is for training"));
        }
        // A tokenizer.json may carry truncation and padding from training; both would change a prompt silently.
        // The post-processor adds special tokens, which the template has written already (a second one would be wrong),
        // and trims blanks from offsets, which would shift spans.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| Problem::new(format!("the tokenizer cannot be used: {error}")))?;
        inner.with_post_processor(None::<PostProcessorWrapper>);
        let added = inner.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special).map(|(&id, _)| id).collect();
        Ok(Self { inner, special, unknown: Vec::new() })
    }

    /// Has `encode` refuse those of these tokens that tokenizer.json does not have, as in a fine-tune whose tokenizer.json is older
    /// than its other files. transformers adds them under new ids.
    pub fn with_added_tokens(mut self, tokens: &BTreeSet<String>) -> Self {
        let known = self.inner.get_added_tokens_decoder();
        let whole: HashSet<&str> = known.values().map(|token| token.content.as_str()).collect();
        let is_known = |token: &str| whole.contains(token) || self.inner.token_to_id(token).is_some();
        self.unknown = tokens.iter().filter(|token| !is_known(token)).cloned().collect();
        self
    }

    /// The tokens of a text in which special tokens are already written out; none is added.
    ///
    /// # Errors
    /// Text the tokenizer has no tokens for.
    pub fn encode(&self, text: &str) -> Result<Encoded, Problem> {
        if let Some(token) = self.unknown.iter().find(|token| text.contains(token.as_str())) {
            return Err(Problem::new(format!(
                "the text holds the token `{token}`, which another file of the tokenizer names and tokenizer.json lacks"
            ))
            .hint("save the tokenizer again: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"));
        }
        let encoding = self.inner.encode(text, false).map_err(|error| {
            Problem::new(format!("the text cannot be tokenised: {error}"))
                .hint("check that tokenizer.json belongs to this model")
        })?;
        Ok(Encoded { ids: encoding.get_ids().to_vec(), offsets: encoding.get_offsets().to_vec() })
    }

    /// The text of tokens, special tokens left out.
    ///
    /// # Errors
    /// Tokens the tokenizer cannot turn into text.
    pub fn decode(&self, ids: &[u32]) -> Result<String, Problem> {
        self.text(ids, true)
    }

    /// The text of tokens, special tokens shown.
    ///
    /// # Errors
    /// Tokens the tokenizer cannot turn into text.
    pub fn decode_with_special(&self, ids: &[u32]) -> Result<String, Problem> {
        self.text(ids, false)
    }

    fn text(&self, ids: &[u32], skip_special: bool) -> Result<String, Problem> {
        self.inner.decode(ids, skip_special).map_err(|error| {
            Problem::new(format!("the tokens cannot be decoded: {error}"))
                .hint("check that tokenizer.json belongs to this model")
        })
    }

    /// The id of a token's exact text.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token of an id, in the vocabulary's own spelling.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Whether a token is a control token, which decoding leaves out.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    /// Number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }
}
