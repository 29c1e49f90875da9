//! [`Dataset`]: appends records to a file of a Hugging Face dataset, in one conditional commit.

use std::{future::Future, time::Duration};

use hf_hub::repository::{CommitOperation, RepoTreeEntry};
use hf_hub::{HFClient, HFError, HFRepository, RepoTypeDataset};
use serde_json::Value;

use crate::error::{self, HubError};
use crate::merge::{self, Record};
use crate::repo_id::{self, check_repo_id};
use crate::token::{HUB, TOKEN_VARIABLE};
use tiltmeter_model::problem::{Problem, root_cause};
use tiltmeter_model::secret::{ApiKey, Scrubber};
use tiltmeter_store::safe_name;

const BRANCH: &str = "main";

/// Largest file that is appended to, in bytes. Three copies are in memory while it is sent.
const LARGEST: u64 = 1 << 30;

/// Bytes per second by which the transfer time-out grows with the size of the file.
const MIN_RATE: u64 = 128 << 10;

/// Time-outs and retries.
#[derive(Clone, Copy, Debug)]
pub struct HubOptions {
    /// For DNS, TCP and TLS.
    pub connect_timeout: Duration,
    /// For the next byte, and for a whole call without file transfer, including retries.
    pub request_timeout: Duration,
    /// For a call that transfers the file, including retries; extended for large files.
    pub transfer_timeout: Duration,
    /// Retries of a call after a broken connection or a 5xx.
    pub retries: usize,
    /// First delay before a retry; doubles.
    pub retry_delay: Duration,
    /// Attempts to commit while other writers commit too.
    pub commit_attempts: usize,
}

impl Default for HubOptions {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            connect_timeout: seconds(10),
            request_timeout: seconds(120),
            transfer_timeout: seconds(600),
            retries: 2,
            retry_delay: Duration::from_millis(500),
            commit_attempts: 8,
        }
    }
}

/// Result of an append.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    /// Records added to the file.
    pub added: usize,
    /// Records whose `run_id` was in the file, or recorded as sent, before.
    pub already_there: usize,
    /// The commit; `None` if there was nothing to add.
    pub commit: Option<String>,
}

/// A dataset on the Hub, with a token to write to it.
pub struct Dataset {
    repo_id: String,
    endpoint: String,
    repository: HFRepository<RepoTypeDataset>,
    http: reqwest::Client,
    token: ApiKey,
    scrubber: Scrubber,
    options: HubOptions,
}

impl Dataset {
    /// Checks id, token and address; sends nothing. The address is `endpoint`, else `HF_ENDPOINT`, else huggingface.co.
    ///
    /// # Errors
    /// A malformed id or a placeholder; a token that cannot be sent in a header; an invalid address, or one to which the token would be
    /// sent unencrypted.
    pub fn open(repo_id: &str, token: ApiKey, endpoint: Option<&str>) -> Result<Self, Problem> {
        Self::open_with(repo_id, token, endpoint, HubOptions::default())
    }

    /// [`open`](Self::open) with other time-outs and retries.
    pub fn open_with(
        repo_id: &str,
        token: ApiKey,
        endpoint: Option<&str>,
        options: HubOptions,
    ) -> Result<Self, Problem> {
        check_repo_id(repo_id)?;
        // hf-hub silently omits a token that cannot be sent in a header.
        if token.reveal().is_empty() || !token.reveal().bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Problem::new("the token for the Hub contains an invalid character")
                .hint(format!("copy {TOKEN_VARIABLE} again, alone on its line")));
        }
        let set = std::env::var("HF_ENDPOINT").ok().filter(|value| !value.trim().is_empty());
        let (endpoint, local) = repo_id::endpoint(endpoint.or(set.as_deref()).unwrap_or(HUB))?;
        let no_client = |why: String| {
            Problem::new(format!("HTTPS is not available: {why}")).hint("install the system's root certificates")
        };
        let builder = reqwest::Client::builder()
            .user_agent(concat!("tiltmeter/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(options.connect_timeout)
            .read_timeout(options.request_timeout);
        let builder = if local { builder.no_proxy() } else { builder };
        let http = builder.build().map_err(|error| no_client(root_cause(&error)))?;
        let client = HFClient::builder()
            .endpoint(&endpoint)
            .token(token.reveal())
            .client(http.clone())
            .cache_enabled(false)
            .retry_max_attempts(options.retries)
            .retry_base_delay(options.retry_delay)
            .build()
            .map_err(|error| no_client(error.to_string()))?;
        let (owner, dataset) = hf_hub::split_id(repo_id);
        let mut scrubber = Scrubber::default();
        scrubber.add(&token);
        let repository = client.dataset(owner, dataset);
        Ok(Self { repo_id: repo_id.into(), endpoint, repository, http, token, scrubber, options })
    }

    /// `name/dataset`
    pub fn repo_id(&self) -> &str {
        &self.repo_id
    }

    /// The Hub's address, without a trailing slash.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Checks that the token is valid and can write, and that the dataset exists: to be called before money is spent on records. Only a
    /// commit shows whether the token can write to this dataset.
    ///
    /// # Errors
    /// An invalid or read-only token; a missing dataset, or a model of that name; no connection to the Hub.
    pub async fn check(&self) -> Result<(), Problem> {
        let checked = async {
            self.check_token().await?;
            match self.head().await {
                Err(HubError::NotFound(problem)) if self.is_model().await => {
                    let what = format!("`{}` is a model, not a dataset", self.repo_id);
                    Err(HubError::Other(Problem { what, ..problem }))
                }
                other => other,
            }
        };
        checked.await.map(drop).map_err(|error| self.scrubber.scrub_problem(error.into_problem(&self.repo_id)))
    }

    /// Appends the records whose `run_id` is not in `file` yet, in one commit. The existing bytes stay unchanged.
    ///
    /// # Errors
    /// A record that is not one line of JSON with a `run_id`; an error of the Hub; no connection; other writers that keep committing.
    /// After an error the file is unchanged, or, if only the reply was lost, complete: appending again is safe.
    pub async fn append(&self, file: &str, records: &[Record]) -> Result<Appended, Problem> {
        self.append_all(file, records).await.map(|(appended, _)| appended)
    }

    /// [`append`](Self::append), with a commit that contains all the records: the new one, or the head that had them.
    pub(crate) async fn append_all(&self, file: &str, records: &[Record]) -> Result<(Appended, String), Problem> {
        safe_name(file)?;
        merge::check(records)?;
        if records.is_empty() {
            return Ok(Default::default());
        }
        let mut delay = self.options.retry_delay;
        for attempt in 0..self.options.commit_attempts.max(1) {
            if attempt > 0 {
                // Jitter, so that writers that collided do not collide again.
                tokio::time::sleep(delay.mul_f64(0.5 + jitter())).await;
                delay = delay.saturating_mul(2).min(Duration::from_secs(20));
            }
            match self.try_append(file, records).await {
                Ok(done) => return Ok(done),
                Err(HubError::Conflict) => tracing::info!(dataset = self.repo_id, attempt, "another commit came first"),
                Err(error) => return Err(self.scrubber.scrub_problem(error.into_problem(&self.repo_id))),
            }
        }
        Err(error::too_many_conflicts(&self.repo_id, self.options.commit_attempts))
    }

    /// Reads the file at the head of `main` and commits on condition that the head is unchanged.
    async fn try_append(&self, file: &str, records: &[Record]) -> Result<(Appended, String), HubError> {
        let head = self.head().await?;
        let old = self.read(file, &head).await?;
        let merged = merge::merge(old, records);
        let mut appended = Appended { added: merged.added, already_there: records.len() - merged.added, commit: None };
        if merged.added == 0 {
            return Ok((appended, head));
        }
        let size = merged.bytes.len() as u64;
        if size > LARGEST {
            return Err(error::too_large(file, size));
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
        let made = self.timed(self.transfer_timeout(size), "storing the records", commit).await?;
        // Without a commit id in the reply, the head is taken.
        let made = match made.commit_oid {
            Some(oid) => oid,
            None => self.head().await?,
        };
        appended.commit = Some(made.clone());
        Ok((appended, made))
    }

    /// The head of `main`.
    async fn head(&self) -> Result<String, HubError> {
        let call = self.repository.info().expand(vec!["sha".into()]).send();
        let info = self.timed(self.options.request_timeout, "sending the head of the dataset", call).await?;
        let commit = |sha: &String| sha.len() >= 7 && sha.bytes().all(|byte| byte.is_ascii_hexdigit());
        info.sha.filter(commit).ok_or_else(|| error::malformed("it does not name the head of the dataset"))
    }

    /// The bytes of the file at this commit; empty if there is no such file. A 404 of the download alone is not trusted: the listing of the
    /// same commit says whether the file exists and how long it is, so that a failed download never erases records.
    async fn read(&self, file: &str, commit: &str) -> Result<Vec<u8>, HubError> {
        let call = self.repository.get_paths_info().paths(vec![file.into()]).revision(commit).send();
        let listed = self.timed(self.options.request_timeout, "listing the dataset", call).await?;
        let entry = listed.into_iter().find(|entry| match entry {
            RepoTreeEntry::File { path, .. } | RepoTreeEntry::Directory { path, .. } => path == file,
        });
        let size = match entry {
            None => return Ok(Vec::new()),
            Some(RepoTreeEntry::Directory { .. }) => return Err(error::is_folder(file)),
            Some(RepoTreeEntry::File { size, .. }) => size,
        };
        if size > LARGEST {
            return Err(error::too_large(file, size));
        }
        let call = self.repository.download_file_to_bytes().filename(file).revision(commit).send();
        let bytes = self.timed(self.transfer_timeout(size), "sending the file", call).await?;
        if bytes.len() as u64 != size {
            let what = format!("{file} has {size} bytes, {} were received", bytes.len());
            return Err(error::malformed(&what));
        }
        Ok(bytes.into())
    }

    /// hf-hub's `whoami` lacks the role of the token.
    async fn check_token(&self) -> Result<(), HubError> {
        let call = async {
            let url = format!("{}/api/whoami-v2", self.endpoint);
            let response = self.http.get(url).bearer_auth(self.token.reveal()).send().await?;
            let status = response.status();
            Ok::<_, reqwest::Error>((status, response.bytes().await?))
        };
        let late = |_| error::timeout(&self.endpoint, "checking the token", self.options.request_timeout);
        let answer = tokio::time::timeout(self.options.request_timeout, call).await.map_err(late)?;
        let (status, body) = answer.map_err(|error| error::unreachable(&self.endpoint, &error))?;
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        match status.as_u16() {
            200 if answer.pointer("/auth/accessToken/role").and_then(Value::as_str) == Some("read") => {
                Err(error::read_only_token(&self.endpoint))
            }
            200 => Ok(()),
            401 => Err(error::invalid_token(&self.endpoint)),
            status => Err(error::status(&self.endpoint, status, answer["error"].as_str(), &self.scrubber)),
        }
    }

    async fn is_model(&self) -> bool {
        let (owner, name) = hf_hub::split_id(&self.repo_id);
        let model = self.repository.client().model(owner, name);
        let exists = tokio::time::timeout(self.options.request_timeout, model.exists().send()).await;
        matches!(exists, Ok(Ok(true)))
    }

    fn transfer_timeout(&self, size: u64) -> Duration {
        self.options.transfer_timeout + Duration::from_secs(size / MIN_RATE)
    }

    /// Limits a call as a whole: hf-hub limits only the wait for a byte and the number of retries.
    async fn timed<T>(
        &self,
        limit: Duration,
        doing: &str,
        call: impl Future<Output = Result<T, HFError>>,
    ) -> Result<T, HubError> {
        match tokio::time::timeout(limit, call).await {
            Err(_) => Err(error::timeout(&self.endpoint, doing, limit)),
            Ok(answer) => answer.map_err(|error| error::classify(error, &self.repo_id, &self.endpoint, &self.scrubber)),
        }
    }
}

/// From 0 to 1, different between processes.
fn jitter() -> f64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let seed = u64::from(now.subsec_nanos()) ^ (u64::from(std::process::id()) << 20);
    (seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 11) as f64 / (1_u64 << 53) as f64
}
