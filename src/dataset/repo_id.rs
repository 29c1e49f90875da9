//! Dataset ids, by the rules of `huggingface_hub.utils.validate_repo_id` with a required owner, and the address of the Hub.

use tiltmeter_model::problem::Problem;
use tiltmeter_model::secret::check_address;

/// Placeholders of examples, refused as either part of an id.
const PLACEHOLDERS: &[&str] = &[
    "yourusername",
    "yourname",
    "yourorg",
    "yourorganization",
    "youruser",
    "yourhfusername",
    "yournamespace",
    "yourdataset",
    "yourdatasetname",
    "yourrepo",
    "yourreponame",
];

/// Words that can be a real name, but not both parts at once.
const GENERIC: &[&str] = &[
    "username",
    "user",
    "name",
    "org",
    "organization",
    "owner",
    "namespace",
    "dataset",
    "datasetname",
    "datasetid",
    "repo",
    "reponame",
    "mydataset",
    "myusername",
];

/// Checks that the text is a dataset id, `name/dataset`.
///
/// # Errors
/// Another form, or a placeholder from an example.
pub fn check_repo_id(text: &str) -> Result<(), Problem> {
    let hint = "write it as name/dataset: a user or an organization, and their dataset";
    let problem = |what: String| Problem::new(what).hint(hint);
    if let Some((_, rest)) = text.split_once("/datasets/").or_else(|| text.strip_prefix("datasets/").map(|r| ("", r))) {
        let id = rest.split('/').take(2).collect::<Vec<_>>().join("/");
        return Err(Problem::new(format!("`{text}` is a URL, not a dataset id")).hint(format!("write {id}")));
    }
    let parts: Vec<&str> = text.split('/').collect();
    let bare = |part: &str| part.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    let is_placeholder =
        |part: &&str| PLACEHOLDERS.contains(&bare(part).as_str()) || part.contains(['<', '>', '{', '}', '$', '…']);
    if parts.iter().any(is_placeholder) || parts.iter().all(|part| GENERIC.contains(&bare(part).as_str())) {
        return Err(problem(format!("`{text}` is a placeholder from an example, not a dataset")));
    }
    let [owner, dataset] = parts[..] else {
        return Err(problem(format!("`{text}` is not a dataset id")));
    };
    let is_part = |part: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !part.is_empty() && part.chars().all(plain) && !part.starts_with(['-', '.']) && !part.ends_with(['-', '.'])
    };
    let doubled = text.contains("--") || text.contains("..") || text.ends_with(".git");
    if !is_part(owner) || !is_part(dataset) || doubled || text.len() > 96 {
        return Err(problem(format!("`{text}` is not a dataset id"))
            .hint("letters, digits, '-', '_' and '.', as in name/dataset; no '--', no '..', at most 96 characters"));
    }
    Ok(())
}

/// The address without a trailing slash, and whether it is on this machine, where no proxy is used.
pub(super) fn endpoint(text: &str) -> Result<(String, bool), Problem> {
    let text = text.trim().trim_end_matches('/');
    let (_, local) = check_address(text, true).map_err(|what| {
        Problem::new(format!("the address of the Hub {what}"))
            .hint("set HF_ENDPOINT like https://huggingface.co, or unset it")
    })?;
    Ok((text.to_owned(), local))
}
