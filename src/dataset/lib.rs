//! Owns the Hugging Face dataset to which finished records are appended, and the books of what was sent (`uploads.json`).
//!
//! An append is one commit for a whole batch: the head of `main` is asked for, the file is read at exactly that commit, and the old
//! bytes with the new lines go back under the condition that the head has not moved (`parentCommit`). If it has, the round begins
//! again. So two writers cannot overwrite each other, and a commit whose answer was lost is found in the next round, by its `run_id`s.
//!
//! What hf-hub does and what was added: it sends every request, tries again after a broken connection or a 5xx, and moves large files by
//! Xet, the Hub's store for what git does not hold. It takes a `reqwest` client, which is made here, because its own waits for ever.
//! It does not say what a token may do; that question goes out by `reqwest` itself. A file it did not get whole, or a 404 that means
//! something else than "no such file", would make an append an erasure; the listing of the same commit says what there must be.
//! Must not know: what a record means, runs, when to send.

mod merge;
mod name;
mod refusal;
mod uploads;

pub use merge::Record;
pub use name::check_repo_id;
pub use uploads::{Uploads, records_of, send};

use std::{future::Future, time::Duration};

use hf_hub::repository::{CommitOperation, RepoTreeEntry};
use hf_hub::{HFClient, HFError, HFRepository, RepoTypeDataset};
use serde_json::Value;

use refusal::Refusal;
use tiltmeter_model::problem::Problem;
use tiltmeter_model::secret::{ApiKey, Keys, Scrubber};
use tiltmeter_store::safe_name;

/// The variable that holds the token.
pub const TOKEN_VARIABLE: &str = "HF_TOKEN";

const HUB: &str = "https://huggingface.co";
const BRANCH: &str = "main";

/// The largest file that is appended to, in bytes: it is in memory three times over while it is sent.
const LARGEST: u64 = 1 << 30;

/// Slowest line that counts as one, in bytes a second; beyond `Patience::transfer`.
const SLOWEST: u64 = 128 << 10;

/// How long is waited for what.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Until a connection stands.
    pub connect: Duration,
    /// For the next byte, and for the whole of a question that moves no file, with its repetitions.
    pub answer: Duration,
    /// For a call that moves the file, with its repetitions; more is given for a large one.
    pub transfer: Duration,
    /// How often a call is repeated after a broken connection or a 5xx.
    pub repetitions: usize,
    /// First wait before a repetition or a new round; it doubles.
    pub pause: Duration,
    /// Rounds of an append while others keep committing in between.
    pub rounds: usize,
}

impl Default for Patience {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            connect: seconds(10),
            answer: seconds(120),
            transfer: seconds(600),
            repetitions: 2,
            pause: Duration::from_millis(500),
            rounds: 8,
        }
    }
}

/// What became of an append.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    pub added: usize,
    /// Records whose `run_id` the file, or the books, held before.
    pub already_there: usize,
    /// The commit that was made; `None` where there was nothing to add.
    pub commit: Option<String>,
}

/// A dataset on the Hub, and the right to write to it.
pub struct Dataset {
    repo_id: String,
    endpoint: String,
    repository: HFRepository<RepoTypeDataset>,
    http: reqwest::Client,
    token: ApiKey,
    scrubber: Scrubber,
    patience: Patience,
}

/// The token of this sitting.
///
/// # Errors
/// `HF_TOKEN` is not set, or cannot be a token.
pub fn token(keys: &Keys) -> Result<ApiKey, Problem> {
    keys.usable(TOKEN_VARIABLE)?.ok_or_else(|| {
        Problem::new(format!("{TOKEN_VARIABLE} is not set: sending to the Hugging Face Hub needs it")).hint(format!(
            "make a token with write permission at {HUB}/settings/tokens, and set it in the environment or .env"
        ))
    })
}

impl Dataset {
    /// Checks name, token and address; sends nothing. The address is `endpoint`, else `HF_ENDPOINT`, else huggingface.co.
    ///
    /// # Errors
    /// A name of another shape or a placeholder; a token that cannot stand in a header; an address that is none, or to which a token
    /// would go unencrypted.
    pub fn open(repo_id: &str, token: ApiKey, endpoint: Option<&str>) -> Result<Self, Problem> {
        Self::open_with(repo_id, token, endpoint, Patience::default())
    }

    /// `open`, with other waits.
    pub fn open_with(
        repo_id: &str,
        token: ApiKey,
        endpoint: Option<&str>,
        patience: Patience,
    ) -> Result<Self, Problem> {
        check_repo_id(repo_id)?;
        // hf-hub sends a request without its token where the token cannot stand in a header.
        if token.reveal().is_empty() || !token.reveal().bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Problem::new("the token for the Hub holds a character that no token has")
                .hint(format!("copy {TOKEN_VARIABLE} again, alone on its line")));
        }
        let set = std::env::var("HF_ENDPOINT").ok().filter(|value| !value.trim().is_empty());
        let (endpoint, local) = name::address(endpoint.or(set.as_deref()).unwrap_or(HUB))?;
        let no_client = |why: String| {
            Problem::new(format!("no HTTPS on this machine: {why}"))
                .hint("are the system's root certificates installed?")
        };
        let builder = reqwest::Client::builder()
            .user_agent(concat!("tiltmeter/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(patience.connect)
            .read_timeout(patience.answer);
        let builder = if local { builder.no_proxy() } else { builder };
        let http = builder.build().map_err(|error| no_client(refusal::innermost(&error)))?;
        let client = HFClient::builder()
            .endpoint(&endpoint)
            .token(token.reveal())
            .client(http.clone())
            .cache_enabled(false)
            .retry_max_attempts(patience.repetitions)
            .retry_base_delay(patience.pause)
            .build()
            .map_err(|error| no_client(error.to_string()))?;
        let (owner, dataset) = hf_hub::split_id(repo_id);
        let mut scrubber = Scrubber::default();
        scrubber.add(&token);
        let repository = client.dataset(owner, dataset);
        Ok(Self { repo_id: repo_id.into(), endpoint, repository, http, token, scrubber, patience })
    }

    /// `name/dataset`
    pub fn repo_id(&self) -> &str {
        &self.repo_id
    }

    /// The Hub's address, without a slash at its end.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Asks whether the token is accepted and may write at all, and whether the dataset is there. To be called before anything is
    /// spent on records that could not be sent. Whether the token may write to this very dataset only a commit shows.
    ///
    /// # Errors
    /// A token that is refused or may only read; no such dataset, or a model of that name; no way to the Hub.
    pub async fn check(&self) -> Result<(), Problem> {
        let checked = async {
            self.check_token().await?;
            match self.head().await {
                Err(Refusal::Missing(problem)) if self.is_model().await => {
                    let what = format!("`{}` is a model, not a dataset", self.repo_id);
                    Err(Refusal::Final(Problem { what, ..problem }))
                }
                other => other,
            }
        };
        checked.await.map(drop).map_err(|refusal| self.scrubber.scrub_problem(refusal.into_problem(&self.repo_id)))
    }

    /// Appends to `file` the records whose `run_id` it does not hold yet, in one commit. What else is in the file stays byte for byte.
    ///
    /// # Errors
    /// A record that is not one line of JSON with its own `run_id`; a refusal of the Hub; no way to it; others who commit without
    /// end. After an error nothing was changed, or (where an answer was lost) all was added: sending again is right in both cases.
    pub async fn append(&self, file: &str, records: &[Record]) -> Result<Appended, Problem> {
        self.append_all(file, records).await.map(|(appended, _)| appended)
    }

    /// `append`, and a commit that holds all the records: the one made, or the head at which they were found.
    async fn append_all(&self, file: &str, records: &[Record]) -> Result<(Appended, String), Problem> {
        safe_name(file)?;
        merge::check(records)?;
        if records.is_empty() {
            return Ok(Default::default());
        }
        let mut pause = self.patience.pause;
        for round in 0..self.patience.rounds.max(1) {
            if round > 0 {
                // Writers that met once would meet again if they waited alike.
                tokio::time::sleep(pause.mul_f64(0.5 + jitter())).await;
                pause = pause.saturating_mul(2).min(Duration::from_secs(20));
            }
            match self.round(file, records).await {
                Ok(done) => return Ok(done),
                Err(Refusal::Moved) => tracing::info!(dataset = self.repo_id, round, "another commit came in between"),
                Err(other) => return Err(self.scrubber.scrub_problem(other.into_problem(&self.repo_id))),
            }
        }
        Err(refusal::always_moved(&self.repo_id, self.patience.rounds))
    }

    async fn round(&self, file: &str, records: &[Record]) -> Result<(Appended, String), Refusal> {
        let head = self.head().await?;
        let old = self.read(file, &head).await?;
        let merged = merge::merge(old, records);
        let mut appended = Appended { added: merged.added, already_there: records.len() - merged.added, commit: None };
        if merged.added == 0 {
            return Ok((appended, head));
        }
        let size = merged.bytes.len() as u64;
        if size > LARGEST {
            return Err(refusal::too_large(file, size));
        }
        let plural = if merged.added == 1 { "" } else { "s" };
        let commit = self
            .repository
            .create_commit()
            .operations(vec![CommitOperation::add_bytes(file, merged.bytes)])
            .commit_message(format!("Append {} record{plural} to {file}", merged.added))
            .revision(BRANCH)
            .parent_commit(head.as_str())
            .send();
        let made = self.within(self.for_bytes(size), "taking the records", commit).await?;
        // A Hub that does not say which commit it made is asked what the head is now.
        let made = match made.commit_oid {
            Some(oid) => oid,
            None => self.head().await?,
        };
        appended.commit = Some(made.clone());
        Ok((appended, made))
    }

    /// The commit that `main` stands at.
    async fn head(&self) -> Result<String, Refusal> {
        let asked = self.repository.info().expand(vec!["sha".into()]).send();
        let info = self.within(self.patience.answer, "saying what the dataset is at", asked).await?;
        let commit = |sha: &String| sha.len() >= 7 && sha.bytes().all(|byte| byte.is_ascii_hexdigit());
        info.sha.filter(commit).ok_or_else(|| refusal::unreadable("it does not say which commit the dataset is at"))
    }

    /// The bytes of the file at this commit; none where it has no such file.
    async fn read(&self, file: &str, commit: &str) -> Result<Vec<u8>, Refusal> {
        let asked = self.repository.get_paths_info().paths(vec![file.into()]).revision(commit).send();
        let listed = self.within(self.patience.answer, "listing the dataset", asked).await?;
        let entry = listed.into_iter().find(|entry| match entry {
            RepoTreeEntry::File { path, .. } | RepoTreeEntry::Directory { path, .. } => path == file,
        });
        let size = match entry {
            None => return Ok(Vec::new()),
            Some(RepoTreeEntry::Directory { .. }) => return Err(refusal::folder(file)),
            Some(RepoTreeEntry::File { size, .. }) => size,
        };
        if size > LARGEST {
            return Err(refusal::too_large(file, size));
        }
        let asked = self.repository.download_file_to_bytes().filename(file).revision(commit).send();
        let bytes = self.within(self.for_bytes(size), "giving out the file", asked).await?;
        if bytes.len() as u64 != size {
            let what = format!("{file} has {size} bytes there, and {} arrived", bytes.len());
            return Err(refusal::unreadable(&what));
        }
        Ok(bytes.into())
    }

    /// hf-hub's own question leaves out what the token may do.
    async fn check_token(&self) -> Result<(), Refusal> {
        let asked = async {
            let url = format!("{}/api/whoami-v2", self.endpoint);
            let response = self.http.get(url).bearer_auth(self.token.reveal()).send().await?;
            let status = response.status();
            Ok::<_, reqwest::Error>((status, response.bytes().await?))
        };
        let late = |_| refusal::late(&self.endpoint, "saying whose token this is", self.patience.answer);
        let answer = tokio::time::timeout(self.patience.answer, asked).await.map_err(late)?;
        let (status, body) = answer.map_err(|error| refusal::unreached(&self.endpoint, &error))?;
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        match status.as_u16() {
            200 if answer.pointer("/auth/accessToken/role").and_then(Value::as_str) == Some("read") => {
                Err(refusal::only_reads(&self.endpoint))
            }
            200 => Ok(()),
            401 => Err(refusal::unaccepted(&self.endpoint)),
            status => Err(refusal::status(&self.endpoint, status, answer["error"].as_str(), &self.scrubber)),
        }
    }

    async fn is_model(&self) -> bool {
        let (owner, name) = hf_hub::split_id(&self.repo_id);
        let model = self.repository.client().model(owner, name);
        let asked = tokio::time::timeout(self.patience.answer, model.exists().send()).await;
        matches!(asked, Ok(Ok(true)))
    }

    fn for_bytes(&self, size: u64) -> Duration {
        self.patience.transfer + Duration::from_secs(size / SLOWEST)
    }

    /// hf-hub bounds the wait for a byte, and the number of repetitions, but not the whole.
    async fn within<T>(
        &self,
        limit: Duration,
        doing: &str,
        call: impl Future<Output = Result<T, HFError>>,
    ) -> Result<T, Refusal> {
        match tokio::time::timeout(limit, call).await {
            Err(_) => Err(refusal::late(&self.endpoint, doing, limit)),
            Ok(answer) => answer.map_err(|error| refusal::sort(error, &self.repo_id, &self.endpoint, &self.scrubber)),
        }
    }
}

/// From 0 to 1; two processes that failed together come to different values.
fn jitter() -> f64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let seed = u64::from(now.subsec_nanos()) ^ (u64::from(std::process::id()) << 20);
    (seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 11) as f64 / (1_u64 << 53) as f64
}
