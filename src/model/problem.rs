//! [`Problem`]: the form of every error shown to a user.

use std::{error::Error, fmt};

/// An error in the user's terms: what happened, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// What happened: one sentence, in lower case, without a full stop.
    pub what: String,
    /// Where: `file:line:column (key)`, a path, or a run and its turn.
    pub place: Option<String>,
    /// What to do.
    pub hint: Option<String>,
}

impl Problem {
    /// A problem without place and hint.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), place: None, hint: None }
    }

    /// Sets the place.
    pub fn at(mut self, place: impl Into<String>) -> Self {
        self.place = Some(place.into());
        self
    }

    /// Sets the hint.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(place) = &self.place {
            write!(f, "\n  at {place}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

impl Error for Problem {}

/// The message of the innermost error: `connection refused` rather than `error sending request`.
pub fn root_cause(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
