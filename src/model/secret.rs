//! API keys: read from the environment or a `.env` file, held in a type without `Debug`, `Display` or `Serialize`, and removed from any
//! text by a [`Scrubber`].

use std::{borrow::Cow, collections::BTreeMap, path::Path, sync::Arc};

use crate::problem::Problem;

/// A secret value. It implements neither `Debug`, `Display` nor `Serialize`.
#[derive(Clone)]
pub struct ApiKey(Arc<str>);

impl ApiKey {
    /// The value, for an HTTP header only.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

/// Every available secret, by variable.
#[derive(Clone, Default)]
pub struct Keys {
    by_variable: BTreeMap<String, ApiKey>,
}

/// Endings of the variables whose values are secrets.
const SECRET_ENDINGS: &[&str] = &["_API_KEY", "_TOKEN", "_SECRET"];

/// Placeholders from example files.
const PLACEHOLDERS: &[&str] = &[
    "your_key_here",
    "your_api_key_here",
    "your-api-key",
    "your-key-here",
    "changeme",
    "xxx",
    "hf_xxx",
    "your_token_here",
];

impl Keys {
    /// Reads the environment, and a `.env` file for variables that are not set there. A missing file is not an error.
    ///
    /// # Errors
    /// See [`read_env_file`].
    pub fn from_environment(env_file: Option<&Path>) -> Result<Self, Problem> {
        let mut pairs = match env_file {
            Some(path) => read_env_file(path)?,
            None => Vec::new(),
        };
        // Later pairs win: the environment overrides the file.
        let set = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        pairs.extend(set.filter(|(_, value)| !value.trim().is_empty()));
        Ok(Self::from_pairs(pairs))
    }

    /// Keeps the secrets among the pairs and drops empty values.
    pub fn from_pairs(pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        let secret = |name: &str| SECRET_ENDINGS.iter().any(|ending| name.ends_with(ending)) || name == "HF_TOKEN";
        let kept = pairs.into_iter().filter(|(name, value)| secret(name) && !value.trim().is_empty());
        Self { by_variable: kept.map(|(name, value)| (name, ApiKey(value.trim().into()))).collect() }
    }

    /// The value of a variable.
    pub fn get(&self, variable: &str) -> Option<ApiKey> {
        self.by_variable.get(variable).cloned()
    }

    /// The value of a variable, checked before use.
    ///
    /// # Errors
    /// A placeholder of an example, or a character that cannot occur in a key.
    pub fn usable(&self, variable: &str) -> Result<Option<ApiKey>, Problem> {
        let Some(key) = self.get(variable) else { return Ok(None) };
        if PLACEHOLDERS.contains(&key.reveal().to_ascii_lowercase().as_str()) {
            return Err(Problem::new(format!("{variable} still holds a placeholder from an example"))
                .hint(format!("set it in the environment or write `{variable}=...` into .env")));
        }
        if !key.reveal().bytes().all(|byte| byte.is_ascii_graphic()) {
            let what =
                format!("{variable} contains an invalid character, such as a space, a quotation mark or a line break");
            return Err(Problem::new(what).hint("copy the key again, alone on its line"));
        }
        Ok(Some(key))
    }

    /// A scrubber of all these keys.
    pub fn scrubber(&self) -> Scrubber {
        let mut scrubber = Scrubber::default();
        self.by_variable.values().for_each(|key| scrubber.add(key));
        scrubber
    }
}

/// Reads the pairs of a `.env` file: `NAME=value`, `export NAME="value"`, `# comment`. Variables are not expanded, because a key may
/// contain `$`. A missing file is empty.
///
/// # Errors
/// A file that cannot be read, or a line of another form.
pub fn read_env_file(path: &Path) -> Result<Vec<(String, String)>, Problem> {
    let text = match crate::input::read_text(path, crate::input::MAX_TEXT) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            let what = format!("cannot read {}: {}", path.display(), error.kind());
            return Err(Problem::new(what).hint("it holds NAME=value lines; check that it is a text file you may read"));
        }
    };
    let mut pairs = Vec::new();
    for (i, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let pair = line.strip_prefix("export ").unwrap_or(line).split_once('=');
        let Some((name, value)) = pair.map(|(name, value)| (name.trim(), value.trim())) else {
            // The line is not shown, because it may hold a key.
            let problem = Problem::new("this line of the .env file is not NAME=value");
            return Err(problem.at(format!("{}:{}", path.display(), i + 1)).hint("write NAME=value, or # before it"));
        };
        let quoted = ['"', '\''].into_iter().find_map(|q| value.strip_prefix(q)?.split_once(q));
        let value = match quoted {
            Some((inside, _)) => inside,
            None => value.split_once(" #").map_or(value, |(value, _)| value.trim_end()),
        };
        pairs.push((name.to_string(), value.to_string()));
    }
    Ok(pairs)
}

/// Removes secrets from text: verbatim, JSON-escaped, URL-encoded, and base64-encoded at any offset.
#[derive(Clone, Default)]
pub struct Scrubber {
    forms: Vec<String>,
}

/// Replaces a secret in scrubbed text.
pub const REDACTED: &str = "[secret]";

/// Bytes. Shorter values are not keys, and replacing them would damage ordinary text.
const SHORTEST_SECRET: usize = 8;

impl Scrubber {
    /// Adds a secret; values shorter than 8 bytes are ignored.
    pub fn add(&mut self, key: &ApiKey) {
        let value = key.reveal();
        if value.len() < SHORTEST_SECRET {
            return;
        }
        // An error nested in an error is escaped twice; Debug output escapes once more.
        let mut escaped = value.to_string();
        for _ in 0..4 {
            self.forms.extend([escaped.clone(), escaped.replace('/', "\\/")]);
            let quoted = serde_json::Value::from(escaped).to_string();
            escaped = quoted[1..quoted.len() - 1].to_string();
        }
        let encoded = percent_encoded(value);
        self.forms.extend([lower_escapes(&encoded), encoded]);
        for offset in 0..3 {
            let inner = base64_inner(value.as_bytes(), offset);
            self.forms.extend([inner.replace('+', "-").replace('/', "_"), inner]);
        }
        // Longest first, because one form may contain another.
        self.forms.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        self.forms.dedup();
    }

    /// The text with every secret replaced by [`REDACTED`].
    pub fn scrub<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut clean = Cow::Borrowed(text);
        for form in &self.forms {
            if clean.contains(form.as_str()) {
                clean = Cow::Owned(clean.replace(form.as_str(), REDACTED));
            }
        }
        clean
    }

    /// A scrubbed excerpt on one line, without control characters, of at most `max_chars` characters and an ellipsis. Secrets are replaced
    /// before the text is shortened, because a truncated secret would not be recognised.
    pub fn excerpt(&self, text: &str, max_chars: usize) -> String {
        let visible: String = self.scrub(text).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let line = visible.split_whitespace().collect::<Vec<_>>().join(" ");
        match line.char_indices().nth(max_chars) {
            Some((end, _)) => format!("{}…", &line[..end]),
            None => line,
        }
    }

    /// [`scrub`](Self::scrub) applied to every part of a problem.
    pub fn scrub_problem(&self, problem: Problem) -> Problem {
        let clean = |text: String| self.scrub(&text).into_owned();
        Problem { what: clean(problem.what), place: problem.place.map(clean), hint: problem.hint.map(clean) }
    }
}

/// Parses the address of a server and returns whether it is on this machine. `sends_secret`: refuse unencrypted connections to others.
///
/// # Errors
/// The rest of a sentence about the address, which must not be shown because it may contain a secret.
pub fn check_address(text: &str, sends_secret: bool) -> Result<(url::Url, bool), &'static str> {
    let url = url::Url::parse(text).map_err(|_| "is not a URL")?;
    if !["http", "https"].contains(&url.scheme()) || url.host().is_none() {
        return Err("is not an http or https URL");
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err("has a user, a query or a fragment: credentials are sent in headers only");
    }
    let local = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    };
    if sends_secret && url.scheme() == "http" && !local {
        return Err("would receive credentials unencrypted: use https");
    }
    Ok((url, local))
}

fn percent_encoded(value: &str) -> String {
    let mut text = String::new();
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(byte as char),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

/// `%2F` becomes `%2f`; other letters are unchanged.
fn lower_escapes(encoded: &str) -> String {
    let mut parts = encoded.split('%');
    let first = parts.next().unwrap_or_default().to_string();
    parts.fold(first, |text, part| format!("{text}%{}{}", part[..2].to_ascii_lowercase(), &part[2..]))
}

/// The base64 characters that depend on the value alone when it starts `offset` bytes (mod 3) into the encoded text.
fn base64_inner(value: &[u8], offset: usize) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bit = |at: usize| value.get(at / 8).is_some_and(|byte| byte >> (7 - at % 8) & 1 == 1);
    let (start, end) = ((offset * 8).div_ceil(6), (offset + value.len()) * 8 / 6);
    let sextet = |at: usize| (0..6).fold(0usize, |sum, i| sum << 1 | usize::from(bit(at * 6 + i - offset * 8)));
    (start..end).map(|at| ALPHABET[sextet(at)] as char).collect()
}
