//! `ChatTemplate`: renders messages to the exact prompt of transformers' `apply_chat_template(tokenize=False)`.
//!
//! The dialect is Jinja with Python's methods on values, `trim_blocks`, `lstrip_blocks`, `tojson` as `json.dumps` without HTML escapes,
//! `raise_exception`, and the special tokens as variables. `tools` and `documents` are none. `strftime_now` returns a pinned date,
//! so that a prompt does not depend on the day of rendering.

mod jinja;
mod limits;
mod python;

use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value, context, syntax::SyntaxConfig};
use sha2::{Digest, Sha256};
use time::{Date, macros::date};

use crate::checkpoint::hub::{Checkpoint, SpecialTokens};
use tiltmeter_model::problem::Problem;
use tiltmeter_model::{Message, Role};

/// The one template of an environment.
const NAME: &str = "chat template";

/// The default date of `strftime_now`.
pub const PINNED_DATE: Date = date!(2024 - 07 - 26);

/// A compiled chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    special_tokens: SpecialTokens,
    sha256: String,
}

/// The message of `raise_exception`, distinct from Jinja's own errors.
#[derive(Debug)]
struct Refusal(String);

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

impl ChatTemplate {
    /// Compiles the Jinja source; `special_tokens` become variables (`bos_token`, `eos_token`, …). The date is `PINNED_DATE`.
    ///
    /// # Errors
    /// Source that is not Jinja, with the line.
    pub fn new(source: &str, special_tokens: &SpecialTokens) -> Result<Self, Problem> {
        Self::with_date(source, special_tokens, PINNED_DATE)
    }

    /// As `new`, with another date for `strftime_now`.
    ///
    /// # Errors
    /// Source that is not Jinja, with the line.
    pub fn with_date(source: &str, special_tokens: &SpecialTokens, today: Date) -> Result<Self, Problem> {
        limits::check(source)?;
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| explain(&error))?);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_fuel(Some(limits::FUEL));
        jinja::extend(&mut environment);
        environment.add_filter("tojson", python::to_json);
        environment.add_function("strftime_now", move |format: &str| python::strftime(today, format));
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Refusal(message)))
        });
        let compiled = environment.add_template_owned(NAME, as_jinja2_reads(source));
        compiled.map_err(|error| explain(&error))?;
        let sha256 = Sha256::digest(source).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { environment, special_tokens: special_tokens.clone(), sha256 })
    }

    /// The template of a checkpoint.
    ///
    /// # Errors
    /// A checkpoint without one (a base model), or with one that is not Jinja.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self, Problem> {
        match &checkpoint.chat_template {
            Some(source) => Self::new(source, &checkpoint.special_tokens)
                .map_err(|problem| Problem { place: Some(checkpoint.name.clone()), ..problem }),
            None => Err(Problem::new(format!("`{}` has no chat template", checkpoint.name)).hint(
                "a base model has none: use its instruct model, or put a chat_template.jinja beside the weights",
            )),
        }
    }

    /// The prompt of a conversation; with `add_generation_prompt` it ends where the model's next reply begins.
    ///
    /// # Errors
    /// The template's own refusal (say, of roles that do not alternate), or a failure inside it, with the line.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, Problem> {
        let special = Value::from_pairs(self.special_tokens.iter().map(|(name, text)| (name.as_str(), text.as_str())));
        let own = context! {
            messages => messages.iter().map(as_dict).collect::<Vec<_>>(),
            tools => Value::from(()),
            documents => Value::from(()),
            add_generation_prompt,
        };
        let template = self.environment.get_template(NAME).map_err(|error| explain(&error))?;
        let mut prompt = Output(Vec::new());
        match template.render_captured_to(context! { ..own, ..special }, &mut prompt) {
            Ok(_) => {}
            Err(_) if prompt.0.len() >= limits::MAX_OUTPUT => {
                return Err(Problem::new(format!(
                    "the chat template writes more than {} MiB",
                    limits::MAX_OUTPUT >> 20
                ))
                .hint("put another chat_template.jinja beside the weights"));
            }
            Err(error) => return Err(explain(&error)),
        }
        String::from_utf8(prompt.0).map_err(|error| Problem::new(format!("the chat template fails: {error}")))
    }

    /// SHA-256 of the source, lower-case hex.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }
}

/// A prompt that is being written.
struct Output(Vec<u8>);

impl std::io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > limits::MAX_OUTPUT {
            self.0.resize(limits::MAX_OUTPUT, b' ');
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A message as Python code would hand it in: `{"role": …, "content": …}`.
fn as_dict(message: &Message) -> Value {
    let role = match message.role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
    };
    Value::from_pairs([("role", role), ("content", message.content.as_str())])
}

fn explain(error: &Error) -> Problem {
    let mut cause = Some(error as &(dyn std::error::Error + 'static));
    let mut refusal = None;
    // Inside a macro the refusal is wrapped once more.
    while let Some(inner) = cause {
        refusal = refusal.or(inner.downcast_ref::<Refusal>());
        cause = inner.source();
    }
    let problem = match refusal {
        Some(Refusal(message)) => Problem::new(format!("the chat template refuses this conversation: {message}"))
            .hint("change the order or roles of the messages, or put another chat_template.jinja beside the weights"),
        None => {
            let detail = error.detail().map(|detail| format!(": {detail}")).unwrap_or_default();
            Problem::new(format!("the chat template fails: {}{detail}", error.kind()))
                .hint("correct chat_template.jinja beside the weights, or put another one there")
        }
    };
    match error.line() {
        Some(line) => problem.at(format!("{NAME}, line {line}")),
        None => problem,
    }
}

/// The source with what Jinja2 reads otherwise than minijinja. Jinja2 reads every line break as `\n`, and `trim_blocks` leaves the one
/// after `{% raw %}`. `{% generation %}` marks what the model wrote, for training; here it only opens a scope, which in Jinja is
/// `{% with %}`.
fn as_jinja2_reads(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut scoped = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        scoped.push_str(before);
        rest = tag;
        let Some(end) = tag.find("%}") else { break };
        let is_sign = |c: char| c == '-' || c == '+';
        let word = tag[..end].trim_start_matches(is_sign).trim_end_matches(is_sign).trim();
        let scope = match word {
            "generation" => "with",
            "endgeneration" => "endwith",
            "raw" => {
                // A second line break, for minijinja takes one away.
                let line_break = if !tag[..end].ends_with('-') && tag[end + 2..].starts_with('\n') { "\n" } else { "" };
                let after = end_of_raw(&tag[end + 2..]);
                scoped.push_str(&tag[..end + 2]);
                scoped.push_str(line_break);
                scoped.push_str(&tag[end + 2..end + 2 + after]);
                rest = &tag[end + 2 + after..];
                continue;
            }
            _ => continue,
        };
        scoped.push_str(&tag[..end].replacen(word, scope, 1));
        rest = &tag[end..];
    }
    scoped + rest
}

/// Where the tag stands that ends a raw part: tags within it are text.
fn end_of_raw(text: &str) -> usize {
    let tags = text.match_indices("{%").map(|(at, _)| at);
    let is_end = |at: &usize| text[at + 2..].trim_start_matches(['-', '+']).trim_start().starts_with("endraw");
    tags.into_iter().find(is_end).unwrap_or(text.len())
}
