//! The token of the Hub.

use tiltmeter_model::{ApiKey, Keys, Problem};

/// Environment variable of the token.
pub const TOKEN_VARIABLE: &str = "HF_TOKEN";

/// Default address of the Hub.
pub(crate) const HUB: &str = "https://huggingface.co";
/// The token in `HF_TOKEN`.
///
/// # Errors
/// It is not set, or cannot be a token.
pub fn token(keys: &Keys) -> Result<ApiKey, Problem> {
    keys.usable(TOKEN_VARIABLE)?.ok_or_else(|| {
        Problem::new(format!("{TOKEN_VARIABLE} is not set: uploading to the Hugging Face Hub requires it")).hint(
            format!(
                "create a token with write permission at {HUB}/settings/tokens, and set it in the environment or .env"
            ),
        )
    })
}
