//! Owns the names: what the id of a dataset looks like, what only stands for one in an example, and what is an address of a Hub.
//! Rules of an id: those of `huggingface_hub.utils.validate_repo_id`, with the owner's name required.
//! Must not know: requests, records.

use tiltmeter_model::problem::Problem;

/// What examples write where one's own name belongs. A part that is one of these is refused by itself.
const STAND_INS: &[&str] = &[
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

/// Words that may be someone's name, but not both parts at once.
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

/// Whether the text has the shape `name/dataset`.
///
/// # Errors
/// Another shape; the placeholder of an example.
pub fn check_repo_id(text: &str) -> Result<(), Problem> {
    let hint = "write it as name/dataset: the name of a user or an organization, and that of their dataset";
    let problem = |what: String| Problem::new(what).hint(hint);
    if let Some((_, rest)) = text.split_once("/datasets/").or_else(|| text.strip_prefix("datasets/").map(|r| ("", r))) {
        let id = rest.split('/').take(2).collect::<Vec<_>>().join("/");
        return Err(
            Problem::new(format!("`{text}` is an address, not the id of a dataset")).hint(format!("write {id}"))
        );
    }
    let parts: Vec<&str> = text.split('/').collect();
    let bare = |part: &str| part.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    let stands_in =
        |part: &&str| STAND_INS.contains(&bare(part).as_str()) || part.contains(['<', '>', '{', '}', '$', '…']);
    if parts.iter().any(stands_in) || parts.iter().all(|part| GENERIC.contains(&bare(part).as_str())) {
        return Err(problem(format!("`{text}` is the placeholder of an example, not a dataset")));
    }
    let [owner, dataset] = parts[..] else {
        return Err(problem(format!("`{text}` is not the id of a dataset")));
    };
    let is_part = |part: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !part.is_empty() && part.chars().all(plain) && !part.starts_with(['-', '.']) && !part.ends_with(['-', '.'])
    };
    let doubled = text.contains("--") || text.contains("..") || text.ends_with(".git");
    if !is_part(owner) || !is_part(dataset) || doubled || text.len() > 96 {
        return Err(problem(format!("`{text}` is not the id of a dataset"))
            .hint("letters, digits, '-', '_' and '.', as in name/dataset; no '--', no '..', at most 96 characters"));
    }
    Ok(())
}

/// The address without a slash at its end, and whether it is on this machine, where a proxy has no business.
pub(super) fn address(text: &str) -> Result<(String, bool), Problem> {
    // The address itself is not shown: a token may have been put into it.
    let wrong = |what: &str| {
        Problem::new(format!("the address of the Hub {what}"))
            .hint("set HF_ENDPOINT like https://huggingface.co, or unset it")
    };
    let text = text.trim().trim_end_matches('/');
    let url = reqwest::Url::parse(text).map_err(|_| wrong("is not an address"))?;
    if !["http", "https"].contains(&url.scheme()) || url.host_str().is_none() {
        return Err(wrong("is not an http or https address"));
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("holds more than an address: a token goes into a header only"));
    }
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_string();
    let local = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if url.scheme() == "http" && !local {
        return Err(wrong("would get the token unencrypted over the network: use https"));
    }
    Ok((text.to_string(), local))
}
